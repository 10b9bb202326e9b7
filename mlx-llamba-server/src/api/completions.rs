//! `POST /v1/completions`

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use mlx_llamba_engine::{Prepared, Request};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::{Fields, fields};
use super::sampling::{Common, Stop, StreamOptions, choices, max_tokens};
use super::{App, Client, stream};
use crate::problem::Problem;
use answer::Answer;
pub(crate) use answer::Completion;

/// What to complete.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string, token ids, or a list of either")]
enum Prompt {
    Text(String),
    Texts(#[schemars(length(min = 1))] Vec<String>),
    Tokens(#[schemars(length(min = 1))] Vec<u32>),
    TokenLists(#[schemars(length(min = 1), inner(length(min = 1)))] Vec<Vec<u32>>),
}

/// A request for completions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    model: String,
    prompt: Prompt,
    /// Default: 16.
    #[schemars(range(min = 0))]
    max_tokens: Option<u32>,
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
    /// Equal seeds give equal texts; continuation `i` draws from `seed + i`.
    seed: Option<i64>,
    stop: Option<Stop>,
    /// Continuations of each prompt.
    #[schemars(range(min = 1))]
    n: Option<u32>,
    /// Give the prompt back before its continuation.
    echo: Option<bool>,
    /// So many likeliest tokens.
    #[schemars(range(min = 0, max = 20))]
    logprobs: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Clients of one address with different users take turns.
    user: Option<String>,
}

fields!(CompletionRequest, unsupported: &["best_of", "suffix"]);

/// `POST /v1/completions`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, Problem> {
    let mut request = CompletionRequest::parse(&body)?;
    app.check_model(&request.model)?;
    let streams = request.stream.unwrap_or(false);
    let usage = request.stream_options.take().map(|o| o.include_usage.unwrap_or(false));
    if usage.is_some() && !streams {
        return Err(Problem::parameter("stream_options", "only for streams"));
    }
    let (echo, logprobs) = (request.echo.unwrap_or(false), request.logprobs.is_some());
    let requests = prepare(&app, client, request)?;
    let prepared = app.engine.prepare(requests).await?;
    let echo = if echo { texts(&app, &prepared).await? } else { Vec::new() };
    let answer = Answer::start(app.clone(), prepared, echo, logprobs, usage.unwrap_or(false))?;
    if streams {
        return Ok(stream::respond(&app, answer));
    }
    Ok(Json(answer.whole().await?).into_response())
}

/// Returns the prompts as texts.
async fn texts(app: &App, prepared: &[Prepared]) -> Result<Vec<String>, Problem> {
    let mut texts = Vec::new();
    for request in prepared {
        texts.push(match request.text() {
            Some(text) => text.to_owned(),
            None => app.engine.decode(request.tokens().to_vec()).await?,
        });
    }
    Ok(texts)
}

/// Checks a request's fields and makes the engine's requests of them, one for each prompt.
fn prepare(app: &App, client: Client, request: CompletionRequest) -> Result<Vec<Request>, Problem> {
    let limits = &app.options.limits;
    let prompts: Vec<mlx_llamba_engine::Prompt> = match request.prompt {
        Prompt::Text(text) => vec![text.into()],
        Prompt::Texts(texts) => texts.into_iter().map(Into::into).collect(),
        Prompt::Tokens(ids) => vec![ids.into()],
        Prompt::TokenLists(lists) => lists.into_iter().map(Into::into).collect(),
    };
    let count = prompts.len();
    if count == 0 || count > limits.choices {
        let message = format!("{count} prompts, not 1 to {}", limits.choices);
        return Err(Problem::parameter("prompt", message));
    }
    let n = choices(request.n, count, limits, app.engine.slots())?;
    let logprobs = request.logprobs.map(|n| n as usize);
    if let Some(n) = logprobs.filter(|&n| n > 20) {
        return Err(Problem::parameter("logprobs", format!("{n} is more than 20")));
    }
    let max_tokens = max_tokens("max_tokens", request.max_tokens, 16, limits)?;
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
    let options = common.generation(app.engine.vocab_size(), max_tokens, logprobs)?;
    let client = client.with_user(request.user);
    let prompt_logprobs = request.echo.unwrap_or(false) && logprobs.is_some();
    let one = |prompt| {
        let request = Request::new(prompt).generation(options.clone()).choices(n);
        request.client(client.clone()).prompt_logprobs(prompt_logprobs)
    };
    Ok(prompts.into_iter().map(one).collect())
}
