//! HTTP: addresses, what is checked before a request is looked at, and connections.

mod body;
mod connections;
mod cors;
mod guard;
mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};

pub(crate) use connections::serve;
pub(crate) use metrics::Metrics;

use crate::api::{App, chat, completions, models, sessions};
use crate::openapi;
use crate::problem::Problem;

/// All addresses.
pub(crate) fn router(app: Arc<App>) -> Router {
    let read =
        |handler: MethodRouter<Arc<App>>| handler.fallback(async || Problem::method("GET, HEAD"));
    let send = |handler: MethodRouter<Arc<App>>| {
        let handler = handler.route_layer(from_fn(body::check_json));
        handler.fallback(async || Problem::method("POST"))
    };
    let act = |handler: MethodRouter<Arc<App>>| handler.fallback(async || Problem::method("POST"));
    let import = act(post(sessions::import).route_layer(from_fn(body::check_bytes)));
    let v1 = Router::new()
        .route("/v1/models", read(get(models::list)))
        .route("/v1/models/{*model}", read(get(models::get)))
        .route("/v1/completions", send(post(completions::create)))
        .route("/v1/chat/completions", send(post(chat::create)))
        .route("/v1/sessions", send(post(sessions::create)))
        .route(body::IMPORT, import)
        .route(
            "/v1/sessions/{id}",
            get(sessions::get)
                .delete(sessions::delete)
                .fallback(async || Problem::method("GET, HEAD, DELETE")),
        )
        .route("/v1/sessions/{id}/chat/completions", send(post(sessions::reply)))
        .route("/v1/sessions/{id}/rewind", send(post(sessions::rewind)))
        .route("/v1/sessions/{id}/fork", act(post(sessions::fork)))
        .route("/v1/sessions/{id}/undo", act(post(sessions::undo)))
        .route("/v1/sessions/{id}/export", read(get(sessions::export)));
    let open = Router::new()
        .route("/health", read(get(models::health)))
        .route("/metrics", read(get(metrics::get)))
        .route("/openapi.json", read(get(openapi::get)));
    v1.merge(open)
        .fallback(async || Problem::not_found("there is nothing at this address", "not_found"))
        .layer(from_fn_with_state(app.clone(), body::collect))
        .layer(from_fn_with_state(app.clone(), guard::authorize))
        .layer(from_fn_with_state(app.clone(), cors::allow))
        .layer(from_fn_with_state(app.clone(), guard::note))
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}
