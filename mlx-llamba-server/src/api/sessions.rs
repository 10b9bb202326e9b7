//! `/v1/sessions`: conversations whose old text is never read again.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use mlx_llamba::ChatOptions;
use mlx_llamba_engine::{Error, SessionView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::{self, Tool};
use super::fields::{Fields, fields};
use super::messages::{ChatMessage, messages};
use super::{App, Client};
use crate::problem::Problem;

/// A request for a new session.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    model: String,
    /// How the conversation begins. Nothing is read yet.
    messages: Option<Vec<ChatMessage>>,
    /// Handed to the chat template with every message.
    #[schemars(length(max = 128))]
    tools: Option<Vec<Tool>>,
}

/// How far to go back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RewindRequest {
    /// So many messages stay.
    messages: u32,
}

fields!(SessionRequest, unsupported: &[]);
fields!(RewindRequest, unsupported: &[]);

/// A message of a session.
#[derive(Debug, Serialize, JsonSchema)]
struct SessionMessage {
    role: String,
    content: String,
}

/// A session.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub(crate) struct SessionAnswer {
    id: String,
    object: &'static str,
    model: String,
    messages: Vec<SessionMessage>,
    /// Tokens that were read and generated.
    tokens: usize,
    /// After how many tokens there are states to go back to.
    snapshots: Vec<usize>,
    /// Bytes of all its states.
    bytes: usize,
}

/// That a session is no more.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

fn answer(app: &App, view: SessionView) -> Json<SessionAnswer> {
    let messages = view.messages.into_iter();
    Json(SessionAnswer {
        id: view.id,
        object: "session",
        model: app.options.model.clone(),
        messages: messages
            .map(|message| SessionMessage { role: message.role, content: message.content })
            .collect(),
        tokens: view.tokens,
        snapshots: view.snapshots,
        bytes: view.bytes,
    })
}

/// `POST /v1/sessions`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<SessionAnswer>, Problem> {
    let request = SessionRequest::parse(&body)?;
    app.check_model(&request.model)?;
    let first = request.messages.unwrap_or_default();
    let first = messages(first)?;
    let tools = chat::tools(app.engine.template(), request.tools)?;
    let options = ChatOptions { tools, ..ChatOptions::default() };
    let view = app.engine.create_session(first, options).await?;
    Ok(answer(&app, view))
}

/// `GET /v1/sessions/{id}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = app.engine.session(id).await?;
    Ok(answer(&app, view))
}

/// `DELETE /v1/sessions/{id}`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, Problem> {
    app.engine.delete_session(&id).await?;
    Ok(Json(Deleted { id, object: "session.deleted", deleted: true }))
}

/// `POST /v1/sessions/{id}/fork`
pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = app.engine.fork_session(id).await?;
    Ok(answer(&app, view))
}

/// `POST /v1/sessions/{id}/undo`
pub(crate) async fn undo(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = app.engine.undo_session(id).await?;
    Ok(answer(&app, view))
}

/// `POST /v1/sessions/{id}/rewind`
pub(crate) async fn rewind(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<SessionAnswer>, Problem> {
    let count = RewindRequest::parse(&body)?.messages as usize;
    let view = app.engine.rewind_session(id, count).await.map_err(|error| {
        let in_messages = matches!(error, Error::SessionState(_));
        let problem = Problem::from(error);
        if in_messages { problem.param("messages") } else { problem }
    })?;
    Ok(answer(&app, view))
}

/// `GET /v1/sessions/{id}/export`
pub(crate) async fn export(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let bytes = app.engine.export_session(id).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// `POST /v1/sessions/import`
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = app.engine.import_session(body, "sent").await?;
    Ok(answer(&app, view))
}

/// `POST /v1/sessions/{id}/chat/completions`
pub(crate) async fn reply(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    chat::answer(app, client, &body, Some(id)).await
}
