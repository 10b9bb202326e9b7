//! An OpenAI-compatible HTTP server for Llamba models.
//!
//! One thread owns the model. Requests wait in a queue that is fair to clients, are let in as far
//! as there is memory for their states, and are computed together: every step of the model serves
//! all the texts that grow at that moment. What a state holds does not grow with its text, so the
//! number of places is known beforehand and nobody is ever thrown out.
//!
//! | address | what |
//! |---|---|
//! | `GET /v1/models` | the model |
//! | `POST /v1/completions` | go on with a text |
//! | `POST /v1/chat/completions` | the next message of a conversation |
//! | `/v1/sessions` | conversations that are kept: go on, fork, undo, rewind, export, import |
//! | `GET /health`, `GET /metrics` | is it well, and how much does it do |
//! | `GET /openapi.json` | all of this, exactly |

mod api;
mod engine;
mod error;
mod http;
mod metrics;
mod openapi;
mod options;
mod problem;

use std::net::SocketAddr;
use std::sync::Arc;

pub use engine::Loaded;
pub use error::{Error, Result};
pub use options::{Limits, Options};

use api::App;
use engine::Engine;
use metrics::Metrics;

/// Loads the model and serves it until `stop` is over.
///
/// `load` runs on the thread that will own the model. `ready` is called with the address once
/// connections are accepted.
///
/// # Errors
/// [`Error`] if the model cannot be loaded or the address cannot be had.
pub fn serve(
    options: Options,
    load: impl FnOnce() -> Result<Loaded, mlx_llamba::Error> + Send + 'static,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    options.check()?;
    // Before the model is loaded: that an address is taken should not be said minutes later.
    let bind = |source| Error::Bind { address: options.bind, source };
    let listener = std::net::TcpListener::bind(options.bind).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let metrics = Arc::new(Metrics::default());
    let engine = Engine::start(load, &options, &metrics)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Templates and tokenizers of long prompts: the model needs processors too.
        .max_blocking_threads(8)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(bind)?;
        let app = Arc::new(App::new(engine.clone(), options.clone(), metrics));
        let router = http::router(app.clone());
        ready(address);
        http::serve(listener, app, router, stop).await;
        Ok::<(), Error>(())
    })?;
    runtime.shutdown_background();
    engine.join();
    Ok(())
}
