//! `POST /v1/chat/completions`

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use mlx_llamba::{ChatOptions, Template};
use mlx_llamba_engine::{Prompt, Request};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::{Fields, fields};
use super::messages::{ChatMessage, messages};
use super::sampling::{Common, Stop, StreamOptions, choices, max_tokens};
use super::{App, Client, stream};
use crate::problem::Problem;
use answer::Answer;
pub(crate) use answer::{ChatChunk, ChatCompletion};

/// A tool, as the chat template wants it: in the order in which it was written.
pub(crate) type Tool = Map<String, Value>;

/// A request for the next message of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    model: String,
    #[schemars(length(min = 1))]
    messages: Vec<ChatMessage>,
    /// Another name of `max_completion_tokens`.
    #[schemars(range(min = 1))]
    max_tokens: Option<u32>,
    /// Default: what the server allows.
    #[schemars(range(min = 1))]
    max_completion_tokens: Option<u32>,
    #[schemars(range(min = 0.0, max = 2.0))]
    temperature: Option<f32>,
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: Option<f32>,
    #[schemars(range(min = 0))]
    top_k: Option<u32>,
    #[schemars(range(min = 0.0, max = 1.0))]
    min_p: Option<f32>,
    #[schemars(range(min = 0.1, max = 10.0))]
    repetition_penalty: Option<f32>,
    #[schemars(range(min = -2.0, max = 2.0))]
    presence_penalty: Option<f32>,
    #[schemars(range(min = -2.0, max = 2.0))]
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Equal seeds give equal texts; choice `i` draws from `seed + i`.
    seed: Option<i64>,
    stop: Option<Stop>,
    #[schemars(range(min = 1))]
    n: Option<u32>,
    logprobs: Option<bool>,
    /// So many likeliest tokens; needs `logprobs`.
    #[schemars(range(min = 0, max = 20))]
    top_logprobs: Option<u32>,
    /// Handed to the chat template. What the model makes of them comes back as text.
    #[schemars(length(max = 128))]
    tools: Option<Vec<Tool>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Clients of one address with different users take turns.
    user: Option<String>,
}

fields!(ChatRequest, unsupported: &[
    "audio", "function_call", "functions", "metadata", "modalities", "parallel_tool_calls",
    "prediction", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort",
    "response_format", "safety_identifier", "service_tier", "store", "tool_choice", "verbosity",
    "web_search_options",
]);

/// `POST /v1/chat/completions`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, Problem> {
    answer(app, client, &body, None).await
}

/// The next message of a conversation, which is all in the request, or goes on from a session.
pub(super) async fn answer(
    app: Arc<App>,
    client: Client,
    body: &[u8],
    session: Option<String>,
) -> Result<Response, Problem> {
    let mut request = ChatRequest::parse(body)?;
    app.check_model(&request.model)?;
    let streams = request.stream.unwrap_or(false);
    let usage = request.stream_options.take().map(|o| o.include_usage.unwrap_or(false));
    if usage.is_some() && !streams {
        return Err(Problem::parameter("stream_options", "only for streams"));
    }
    let logprobs = request.logprobs.unwrap_or(false);
    let request = prepare(&app, client, request, session)?;
    let in_messages = |error| Problem::of(error, "messages");
    let prepared = app.engine.prepare(vec![request]).await.map_err(in_messages)?;
    let id = app.id("chatcmpl");
    for request in &prepared {
        app.log_text("prompt", &id, || request.text().unwrap_or_default().to_owned());
    }
    let answer = Answer::start(app.clone(), id, prepared, logprobs, usage.unwrap_or(false))?;
    if streams {
        return Ok(stream::respond(&app, answer));
    }
    Ok(Json(answer.whole().await?).into_response())
}

/// Checks a request's fields and makes the engine's request of them.
fn prepare(
    app: &App,
    client: Client,
    request: ChatRequest,
    session: Option<String>,
) -> Result<Request, Problem> {
    let limits = &app.options.limits;
    let n = choices(request.n, 1, limits, app.engine.slots())?;
    let prompt = match session {
        None => {
            let tools = tools(app.engine.template(), request.tools)?;
            let options = ChatOptions { tools, ..ChatOptions::default() };
            Prompt::Chat { messages: messages(request.messages)?, options }
        }
        Some(_) if n > 1 => return Err(Problem::parameter("n", "a session has one next message")),
        Some(_) if request.tools.is_some() => {
            let message = "a session's tools are given at its beginning";
            return Err(Problem::parameter("tools", message));
        }
        Some(id) => Prompt::Session { id, messages: messages(request.messages)? },
    };
    let (name, wanted) = match (request.max_tokens, request.max_completion_tokens) {
        (Some(_), Some(_)) => {
            let message = "another name of max_completion_tokens, which is given too";
            return Err(Problem::parameter("max_tokens", message));
        }
        (Some(a), _) => ("max_tokens", Some(a)),
        (None, b) => ("max_completion_tokens", b),
    };
    let max_tokens = max_tokens(name, wanted, limits.max_tokens, limits)?;
    if max_tokens == 0 {
        return Err(Problem::parameter(name, "at least one token"));
    }
    let logprobs = match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (false, Some(_)) => {
            return Err(Problem::parameter("top_logprobs", "only with logprobs: true"));
        }
        (true, Some(n)) if n > 20 => {
            return Err(Problem::parameter("top_logprobs", format!("{n} is more than 20")));
        }
        (true, n) => Some(n.unwrap_or(0) as usize),
        (false, None) => None,
    };
    let common = Common {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        repetition_penalty: request.repetition_penalty,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        logit_bias: request.logit_bias,
        seed: request.seed,
        stop: request.stop,
    };
    Ok(Request::new(prompt)
        .generation(common.generation(app.engine.vocab_size(), max_tokens, logprobs)?)
        .choices(n)
        .client(client.with_user(request.user)))
}

/// True if a template uses tools.
pub(crate) fn takes_tools(template: &Template) -> bool {
    template.takes_tools()
}

/// Checks that the template uses tools, if there are any.
pub(super) fn tools(
    template: Option<&Template>,
    given: Option<Vec<Tool>>,
) -> Result<Option<mlx_llamba::Json>, Problem> {
    let Some(tools) = given else { return Ok(None) };
    if !tools.is_empty() && template.is_some_and(|template| !takes_tools(template)) {
        let message = "this model's chat template has no place for them";
        return Err(Problem::parameter("tools", message).code("unsupported_parameter"));
    }
    if tools.len() > 128 {
        return Err(Problem::parameter("tools", format!("{} are more than 128", tools.len())));
    }
    let tools = serde_json::to_value(tools).and_then(serde_json::from_value);
    tools.map(Some).map_err(|e| Problem::parameter("tools", e))
}
