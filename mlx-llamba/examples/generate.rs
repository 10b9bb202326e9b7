//! Streams a story: `cargo run --release --example generate -- "Once upon a time"`
//!
//! With a second argument, from that model: a directory or a hub repository.

use std::io::Write;

use mlx_llamba::{Event, Generation, Llamba};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".into());
    let builder = match arguments.next() {
        Some(model) => Llamba::builder(model),
        None => Llamba::embedded(),
    };
    let llamba = builder.load()?;

    print!("{prompt}");
    for event in llamba.stream(&prompt, &Generation::default().max_tokens(200))? {
        let event = event?;
        print!("{}", event.text());
        std::io::stdout().flush()?;
        if let Event::End { stats, .. } = event {
            println!("\n\n{:.0} tokens/s", stats.decode_tokens_per_second);
        }
    }
    Ok(())
}
