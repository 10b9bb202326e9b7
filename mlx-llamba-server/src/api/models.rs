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

/// The models of this server: one.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

/// That the server is alive.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
}

fn model(app: &App) -> Model {
    let (id, created) = (app.options.model.clone(), app.started);
    Model { id, object: "model", created, owned_by: "mlx-llamba" }
}

/// `GET /v1/models`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![model(&app)] })
}

/// `GET /v1/models/{model}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Model>, Problem> {
    app.check_model(&name)?;
    Ok(Json(model(&app)))
}

/// `GET /health`
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    if app.engine.is_alive() { Ok(Json(Health { status: "ok" })) } else { Err(Problem::closing()) }
}
