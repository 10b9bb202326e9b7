//! `/v1/sessions`: conversations that the server keeps, so that each message is read once.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use mlx_llamba::Message;
use mlx_llamba::tool_calls::{CallParser, Piece, Tool, ToolCall, ToolFormat};
use mlx_llamba_engine::{Error, SessionView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::{TemplateFields, session_tools};
use super::{App, Call, Client};
use crate::problem::Problem;
use crate::request::body::{Body, Object, part};
use crate::request::cost;
use crate::request::messages::{ChatMessage, messages};

/// The fields that do not go to the chat template.
#[derive(Debug, Deserialize, JsonSchema)]
struct Fields {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    /// The beginning of the conversation. Nothing is read yet.
    messages: Option<Vec<ChatMessage>>,
}

/// A request for a new session.
#[derive(Debug, JsonSchema)]
pub(crate) struct SessionRequest {
    #[serde(flatten)]
    begins: Fields,
    #[serde(flatten)]
    template: TemplateFields,
}

/// A request to go back in a session.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RewindRequest {
    /// The number of messages to keep.
    messages: u32,
}

impl Body for SessionRequest {
    const FREE: &'static [&'static str] = &["chat_template_kwargs", "messages", "model", "tools"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        Ok(Self { begins: part(object)?, template: part(object)? })
    }

    fn model(&self) -> Option<&str> {
        self.begins.model.as_deref()
    }
}

impl Body for RewindRequest {
    const FREE: &'static [&'static str] = &[];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        part(object)
    }
}

/// A message of a session.
#[derive(Debug, Serialize, JsonSchema)]
struct SessionMessage {
    role: String,
    /// The text of a reply without its calls.
    content: String,
    /// The calls of a reply of the model, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<SessionCall>,
}

/// A function that a reply calls.
#[derive(Debug, Serialize, JsonSchema)]
struct SessionCall {
    name: String,
    /// The text of a JSON object.
    arguments: String,
}

/// A session.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub(crate) struct SessionAnswer {
    id: String,
    object: &'static str,
    model: String,
    messages: Vec<SessionMessage>,
    /// Tokens read and generated.
    tokens: usize,
    /// Token counts at which there are states to rewind to.
    snapshots: Vec<usize>,
    /// Bytes of all its states.
    bytes: usize,
}

/// The confirmation that a session was deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

fn answer(app: &App, view: SessionView) -> Json<SessionAnswer> {
    let tools = session_tools(view.tools.as_ref()).unwrap_or_default();
    let tools: Vec<Tool> = tools.iter().filter_map(Tool::read).collect();
    let format = app.engine.template().filter(|_| !tools.is_empty()).map(ToolFormat::of);
    let message = |Message { role, content, .. }: Message| {
        let plain = SessionMessage { role, content, tool_calls: Vec::new() };
        let Some(format) = format.filter(|_| plain.role == "assistant") else { return plain };
        let mut parser = CallParser::new(format, tools.clone());
        let mut pieces = parser.push(&plain.content);
        pieces.extend(parser.finish());
        let mut found = SessionMessage { content: String::new(), ..plain };
        for piece in pieces {
            match piece {
                Piece::Text(text) => found.content += &text,
                Piece::Call(ToolCall { name, arguments, .. }) => {
                    found.tool_calls.push(SessionCall { name, arguments });
                }
            }
        }
        found
    };
    let messages = view.messages.into_iter();
    Json(SessionAnswer {
        id: view.id,
        object: "session",
        model: app.options.model.clone(),
        messages: messages.map(message).collect(),
        tokens: view.tokens,
        snapshots: view.snapshots,
        bytes: view.bytes,
    })
}

/// `POST /v1/sessions`
pub(crate) async fn create(app: Arc<App>, call: Call<SessionRequest>) -> Result<Response, Problem> {
    let first = messages(call.body.begins.messages.unwrap_or_default());
    let options = call.body.template.options(app.engine.template())?;
    let view = call.client.engine.create_session(first, options).await?;
    Ok(answer(&app, view).into_response())
}

/// `GET /v1/sessions/{id}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = client.engine.session(id).await?;
    Ok(answer(&app, view))
}

/// `DELETE /v1/sessions/{id}`
pub(crate) async fn delete(
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, Problem> {
    client.engine.delete_session(&id).await?;
    Ok(Json(Deleted { id, object: "session.deleted", deleted: true }))
}

/// `POST /v1/sessions/{id}/fork`
pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = client.engine.fork_session(id).await?;
    Ok(answer(&app, view))
}

/// `POST /v1/sessions/{id}/undo`
pub(crate) async fn undo(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<SessionAnswer>, Problem> {
    let view = client.engine.undo_session(id).await?;
    Ok(answer(&app, view))
}

/// `POST /v1/sessions/{id}/rewind`
pub(crate) async fn rewind(app: Arc<App>, call: Call<RewindRequest>) -> Result<Response, Problem> {
    let (id, count) = (call.id.unwrap_or_default(), call.body.messages as usize);
    let view = call.client.engine.rewind_session(id, count).await.map_err(|error| {
        let in_messages = matches!(error, Error::SessionState(_));
        let problem = Problem::from(error);
        if in_messages { problem.param("messages") } else { problem }
    })?;
    Ok(answer(&app, view).into_response())
}

/// `GET /v1/sessions/{id}/export`
pub(crate) async fn export(
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let bytes = client.engine.export_session(id).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// `POST /v1/sessions/import`
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Json<SessionAnswer>, Problem> {
    client.memory.set(cost::session(&body))?;
    let view = client.engine.import_session(body, "sent").await?;
    Ok(answer(&app, view))
}
