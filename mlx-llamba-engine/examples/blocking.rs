//! Answers several threads at once, in a program without an async runtime.

use mlx_llamba::Llamba;
use mlx_llamba_engine::{Engine, Error, Loaded, Options, Request};

fn main() -> Result<(), Error> {
    let load = || Loaded::new(Llamba::embedded().load()?);
    let engine = &Engine::start_blocking(load, Options::default())?;
    std::thread::scope(|scope| {
        for name in ["Lily", "Tom", "Sam"] {
            scope.spawn(move || {
                let request = Request::new(format!("{name} went to the park")).max_tokens(30);
                match engine.generate_blocking(request) {
                    Ok(output) => println!("{name} went to the park{}\n", output.text()),
                    Err(error) => eprintln!("{error}"),
                }
            });
        }
    });
    Ok(())
}
