//! The addresses: one table makes the router and the published description.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use schemars::Schema;
use serde_json::{Value, json};

use crate::api::call::with_body;
use crate::api::chat::{ChatChunk, ChatCompletion, ChatRequest};
use crate::api::completions::{Completion, CompletionRequest};
use crate::api::embeddings::{EmbeddingRequest, Embeddings};
use crate::api::messages::{CountRequest, Counted, MessageAnswer, MessageEvent, MessagesRequest};
use crate::api::models::{Health, Model, ModelList};
use crate::api::responses::{ResponseAnswer, ResponseEvent, ResponseRequest};
use crate::api::sessions::{Deleted, RewindRequest, SessionAnswer, SessionRequest};
use crate::api::tokenize::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokens};
use crate::api::{chat, completions, embeddings, messages, models, responses, sessions, tokenize};
use crate::app::App;
use crate::http::{body, cors, guard, metrics};
use crate::page;
use crate::problem::Problem;
use crate::request::schemas::Schemas;

/// An address and method.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    /// The name of the operation in the description.
    pub(crate) name: &'static str,
    handler: MethodRouter<Arc<App>>,
    pub(crate) body: Option<Content>,
    pub(crate) answers: Vec<Content>,
    /// Statuses of errors, beside those of every address.
    pub(crate) errors: &'static [u16],
    /// Asks for no API key.
    pub(crate) open: bool,
}

/// A content type and its schema.
pub(crate) type Content = (&'static str, Value);

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
const EVENTS: &str = "text/event-stream";

impl Route {
    fn new(
        method: &'static str,
        path: &'static str,
        name: &'static str,
        handler: MethodRouter<Arc<App>>,
    ) -> Self {
        let (body, answers, errors, open) = (None, Vec::new(), &[][..], false);
        Self { path, method, name, handler, body, answers, errors, open }
    }

    fn takes(self, kind: &'static str, schema: impl Into<Value>) -> Self {
        Self { body: Some((kind, schema.into())), ..self }
    }

    fn answers(mut self, kind: &'static str, schema: impl Into<Value>) -> Self {
        self.answers.push((kind, schema.into()));
        self
    }

    fn errors(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    fn open(self) -> Self {
        Self { open: true, ..self }
    }
}

/// The table of all addresses. Schemas that it refers to are collected in `schemas`.
pub(crate) fn routes(schemas: &mut Schemas) -> Vec<Route> {
    let read = |path, name, handler| Route::new("get", path, name, handler);
    let send = |path, name, handler| {
        Route::new("post", path, name, handler)
            .errors(&[400, 404, 408, 409, 413, 415, 429, 500, 504])
    };
    let session = schemas.answer::<SessionAnswer>();
    let (completion, chat) = (schemas.answer::<Completion>(), schemas.answer::<ChatCompletion>());
    let chunk = schemas.answer::<ChatChunk>();
    let bytes = json!({ "type": "string", "format": "binary" });
    let chat_body = schemas.request::<ChatRequest>();
    // A session has one next message, and its tools are given at its beginning.
    let turn_body = json!({ "allOf": [chat_body, { "properties": {
        "n": { "enum": [1, null] },
        "tools": { "enum": [[], null] },
        "chat_template_kwargs": { "enum": [{}, null] },
        "continue_final_message": { "enum": [false, null] },
        "add_generation_prompt": { "enum": [true, null] },
    } }] });
    vec![
        read("/v1/models", "listModels", get(models::list))
            .answers(JSON, schemas.answer::<ModelList>()),
        read("/v1/models/{*model}", "getModel", get(models::get))
            .answers(JSON, schemas.answer::<Model>())
            .errors(&[404]),
        send("/v1/completions", "createCompletion", with_body(completions::create))
            .takes(JSON, schemas.request::<CompletionRequest>())
            .answers(JSON, completion.clone())
            .answers(EVENTS, events(&completion)),
        send("/v1/chat/completions", "createChatCompletion", with_body(chat::create))
            .takes(JSON, chat_body)
            .answers(JSON, chat.clone())
            .answers(EVENTS, events(&chunk)),
        send("/v1/responses", "createResponse", with_body(responses::create))
            .takes(JSON, schemas.request::<ResponseRequest>())
            .answers(JSON, schemas.answer::<ResponseAnswer>())
            .answers(EVENTS, events(&schemas.answer::<ResponseEvent>())),
        send("/v1/messages", "createMessage", with_body(messages::create))
            .takes(JSON, schemas.request::<MessagesRequest>())
            .answers(JSON, schemas.answer::<MessageAnswer>())
            .answers(EVENTS, events(&schemas.answer::<MessageEvent>())),
        send("/v1/messages/count_tokens", "countMessageTokens", with_body(messages::count))
            .takes(JSON, schemas.request::<CountRequest>())
            .answers(JSON, schemas.answer::<Counted>()),
        send("/v1/embeddings", "createEmbedding", with_body(embeddings::create))
            .takes(JSON, schemas.request::<EmbeddingRequest>())
            .answers(JSON, schemas.answer::<Embeddings>()),
        send("/v1/tokenize", "tokenize", with_body(tokenize::tokenize))
            .takes(JSON, schemas.request::<TokenizeRequest>())
            .answers(JSON, schemas.answer::<Tokens>()),
        send("/v1/detokenize", "detokenize", with_body(tokenize::detokenize))
            .takes(JSON, schemas.request::<DetokenizeRequest>())
            .answers(JSON, schemas.answer::<Detokenized>()),
        send("/v1/sessions", "createSession", with_body(sessions::create))
            .takes(JSON, schemas.request::<SessionRequest>())
            .answers(JSON, session.clone()),
        send(body::IMPORT, "importSession", post(sessions::import))
            .takes(BYTES, bytes.clone())
            .answers(JSON, session.clone()),
        read("/v1/sessions/{id}", "getSession", get(sessions::get))
            .answers(JSON, session.clone())
            .errors(&[404, 409]),
        Route::new("delete", "/v1/sessions/{id}", "deleteSession", delete(sessions::delete))
            .answers(JSON, schemas.answer::<Deleted>())
            .errors(&[404, 409]),
        send("/v1/sessions/{id}/chat/completions", "continueSession", with_body(chat::create))
            .takes(JSON, turn_body)
            .answers(JSON, chat)
            .answers(EVENTS, events(&chunk)),
        send("/v1/sessions/{id}/rewind", "rewindSession", with_body(sessions::rewind))
            .takes(JSON, schemas.request::<RewindRequest>())
            .answers(JSON, session.clone()),
        send("/v1/sessions/{id}/fork", "forkSession", post(sessions::fork))
            .answers(JSON, session.clone()),
        send("/v1/sessions/{id}/undo", "undoSession", post(sessions::undo)).answers(JSON, session),
        read("/v1/sessions/{id}/export", "exportSession", get(sessions::export))
            .answers(BYTES, bytes)
            .errors(&[404, 409, 500]),
        read("/health", "health", get(models::health))
            .answers(JSON, schemas.answer::<Health>())
            .open(),
        read("/metrics", "metrics", get(metrics::get))
            .answers(metrics::FORMAT, json!({ "type": "string" })),
        read("/openapi.json", "openapi", get(models::openapi))
            .answers(JSON, json!({ "type": "object" }))
            .open(),
    ]
}

/// Events whose data are JSON of a schema, or [DONE].
fn events(chunk: &Schema) -> Value {
    json!({
        "description": "With stream: true, events with a chunk or an error each, and [DONE].",
        "type": "object",
        "properties": { "data": { "type": "string" } },
        "required": ["data"],
        "x-event-data": chunk,
    })
}

/// The router of all addresses.
pub(crate) fn router(app: Arc<App>) -> Router {
    let routes = routes(&mut Schemas::new());
    let methods = |path: &str| {
        let own =
            routes.iter().filter(|route| route.path == path).map(|route| match route.method {
                "get" => "GET, HEAD".to_owned(),
                other => other.to_ascii_uppercase(),
            });
        own.collect::<Vec<_>>().join(", ")
    };
    let all = routes.iter().fold(Router::new(), |router, route| {
        let allow = methods(route.path);
        let handler = route.handler.clone();
        let handler = match &route.body {
            Some((kind, _)) => {
                let kind = *kind;
                let check = move |request: Request, next: Next| async move {
                    body::check_type(&request, kind)?;
                    Ok::<_, Problem>(next.run(request).await)
                };
                handler.route_layer(from_fn(check))
            }
            None => handler,
        };
        // A path with several methods has the fallback of its first one.
        let first = routes.iter().find(|other| other.path == route.path);
        if first.is_some_and(|first| first.name == route.name) {
            router.route(route.path, handler.fallback(async move || Problem::method(allow)))
        } else {
            router.route(route.path, handler)
        }
    });
    page::add_to(all)
        .fallback(async || Problem::not_found("there is nothing at this address", "not_found"))
        .layer(from_fn_with_state(app.clone(), body::collect))
        .layer(from_fn_with_state(app.clone(), guard::authorize))
        .layer(from_fn_with_state(app.clone(), cors::allow))
        .layer(from_fn_with_state(app.clone(), guard::note))
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}
