//! `/v1/models`, `/health`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::App;
use crate::problem::Problem;

/// A model.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
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
    Model { id, object: "model", created, owned_by: "mlx-llamba" }
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
