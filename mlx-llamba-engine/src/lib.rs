//! An engine that serves many requests of one Llamba model at once, without HTTP.
//!
//! One thread owns the model. Requests wait in a queue that is fair to clients, join the batch
//! when there is memory for their states, and are computed together: one forward pass of the model
//! decodes a token for each of them. The size of a state does not depend on the length of its text,
//! so the number of slots is known beforehand and running requests are never evicted.
//!
//! ```
//! use mlx_llamba::Llamba;
//! use mlx_llamba_engine::{Engine, Error, Loaded, Options, Request};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Error> {
//! let engine = Engine::start(|| Loaded::new(Llamba::embedded().load()?), Options::default()).await?;
//!
//! // Token by token.
//! let mut events = engine.submit(Request::new("Once upon a time").max_tokens(20)).await?;
//! while let Some(event) = events.next().await {
//!     print!("{}", event?.text());
//! }
//!
//! // Both at once; clones of the engine can go to any task.
//! let (ball, dog) = tokio::try_join!(
//!     engine.generate(Request::ask("Tell me about a red ball.").max_tokens(20)),
//!     engine.generate(Request::ask("Tell me about a dog.").max_tokens(20)),
//! )?;
//! println!("{} {}", ball.text(), dog.text());
//!
//! // A conversation that the engine keeps: each message is read once.
//! let session = engine.create_session(Vec::new(), Default::default()).await?;
//! let first = engine.generate(Request::ask_session(&session.id, "Hello!").max_tokens(20)).await?;
//! let next = engine.generate(Request::ask_session(&session.id, "And then?").max_tokens(20)).await?;
//! assert!(next.cached_tokens >= first.prompt_tokens);
//! # Ok(())
//! # }
//! ```
//!
//! The futures need no runtime: any executor runs them, and a program without one calls
//! [`Engine::start_blocking`], [`Engine::generate_blocking`] and [`Events::blocking`], or passes
//! any other future to [`wait`].
//!
//! | to | see |
//! |---|---|
//! | start and stop | [`Engine`], [`Options`] |
//! | generate | [`Request`], [`Engine::submit`], [`Engine::generate`], [`Event`] |
//! | hold conversations | [`Engine::create_session`] and the functions beside it |
//! | watch the load | [`Metrics`] |

/// The guide's chapter on the engine: its example is a test.
#[cfg(doctest)]
#[doc = include_str!("../../guide/src/engine.md")]
struct Guide;

mod command;
mod embeddings;
mod encoder;
mod engine;
mod error;
mod events;
mod loaded;
mod metrics;
mod options;
mod prefixes;
mod prepared;
mod queue;
mod request;
mod sessions;
mod slots;
mod streams;
mod threads;
mod wait;
mod worker;

pub use engine::Engine;
pub use error::{Error, Result};
pub use events::{Choice, Event, Events, Output};
pub use loaded::Loaded;
pub use metrics::Metrics;
pub use options::Options;
pub use prepared::Prepared;
pub use request::{Prompt, Request};
pub use sessions::SessionView;
pub use streams::{LoadError, LoadedModel};
pub use wait::wait;
