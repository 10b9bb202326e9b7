//! `/v1/models`, `/health`, `/openapi.json`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::App;
use crate::problem::Problem;

/// A model.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The most tokens that a prompt may have.
    max_model_len: usize,
    /// Abilities of the model here: `completion`, `chat` and `tools` if its template can, `sessions`
    /// and `embeddings` of a Llamba, `structured_outputs`.
    capabilities: Vec<&'static str>,
}

/// The names of this server's model.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// The health of the server.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
}

fn model(app: &App, name: &str) -> Model {
    let (id, created) = (name.to_owned(), app.started);
    let template = app.engine.template();
    let able = [
        ("completion", true),
        ("chat", template.is_some()),
        ("tools", template.is_some_and(|template| template.takes_tools())),
        ("structured_outputs", true),
        ("sessions", template.is_some() && app.engine.is_llamba()),
        ("embeddings", app.engine.is_llamba()),
    ];
    let capabilities = able.into_iter().filter_map(|(name, able)| able.then_some(name)).collect();
    let max_model_len = app.engine.prompt_tokens();
    Model { id, object: "model", created, owned_by: "mlx-llamba", max_model_len, capabilities }
}

/// `GET /v1/models`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let data = app.options.names().map(|name| model(&app, name)).collect();
    Json(ModelList { object: "list", data })
}

/// `GET /v1/models/{model}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Model>, Problem> {
    app.check_model(&name)?;
    Ok(Json(model(&app, &name)))
}

/// `GET /health`
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    if app.engine.is_alive() { Ok(Json(Health { status: "ok" })) } else { Err(Problem::closing()) }
}

/// `GET /openapi.json`
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.openapi.clone())
}
