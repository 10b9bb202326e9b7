//! Continues a text token by token, as an async program does.

use mlx_llamba::Llamba;
use mlx_llamba_engine::{Engine, Error, Loaded, Options, Request};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let load = || Loaded::new(Llamba::embedded().load()?);
    let engine = Engine::start(load, Options::default()).await?;
    let mut events = engine.submit(Request::new("Once upon a time").max_tokens(60)).await?;
    while let Some(event) = events.next().await {
        print!("{}", event?.text());
    }
    println!();
    Ok(())
}
