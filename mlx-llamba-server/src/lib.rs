//! An OpenAI-compatible HTTP server for Llamba models.
//!
//! The requests are computed by [`mlx_llamba_engine`], which an application can use directly.
//!
//! | address | purpose |
//! |---|---|
//! | `GET /v1/models` | the model |
//! | `POST /v1/completions` | continue a text |
//! | `POST /v1/chat/completions` | the next message of a conversation |
//! | `POST /v1/responses` | the same, in OpenAI's newer form; nothing is stored |
//! | `POST /v1/messages` | the same, in Anthropic's form |
//! | `POST /v1/embeddings` | means of the final hidden states |
//! | `POST /v1/tokenize`, `POST /v1/detokenize` | tokens of texts and of conversations |
//! | `/v1/sessions` | conversations kept by the server: continue, fork, undo, rewind, export, import |
//! | `GET /health`, `GET /metrics` | health and load |
//! | `GET /openapi.json` | the exact description of all of these |

mod api;
mod app;
mod error;
mod http;
mod kept;
mod metrics;
mod openapi;
mod options;
mod page;
mod problem;
mod request;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

pub use mlx_llamba_engine::Loaded;

pub use error::{Error, Result};
pub use options::{Limits, Options, parse_address};

use app::App;
use mlx_llamba_engine::{Engine, Options as EngineOptions};

/// Loads a model and serves it until `stop` is ready.
///
/// `load` runs on the thread that keeps the model. `ready` is called with the address once
/// connections are accepted.
///
/// # Errors
/// [`Error`] if the model cannot be loaded, or the server cannot listen on the address.
pub fn serve(
    options: Options,
    load: impl FnOnce() -> Result<Loaded, mlx_llamba::Error> + Send + 'static,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    serve_engine(options, |options| Engine::start_blocking(load, options), ready, stop)
}

/// Starts an engine with the options that it gets, and serves its model until `stop` is ready.
///
/// # Errors
/// As [`serve`].
pub fn serve_engine(
    options: Options,
    start: impl FnOnce(EngineOptions) -> mlx_llamba_engine::Result<Engine>,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    options.check()?;
    // Before the model is loaded, which may take minutes: an address in use is reported at once.
    let bind = |source| Error::Bind { address: options.bind, source };
    let listener = std::net::TcpListener::bind(options.bind).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    // One half is for encoding texts, the other for everything else.
    let engine = options.engine.clone().prompt_memory(options.limits.memory / 2);
    let engine = start(engine)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(bind)?;
        let description = openapi::describe(&engine, &options);
        let app = Arc::new(App::new(engine.clone(), options.clone(), description));
        let router = routes::router(app.clone());
        ready(address);
        let budget = app.budget.clone();
        tokio::select! {
            () = http::serve(listener, app, router, stop) => {}
            () = budget.give_back() => {}
        }
        Ok::<(), Error>(())
    })?;
    runtime.shutdown_background();
    engine.shutdown();
    Ok(())
}
