//! `POST /v1/completions`

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::{Fields, fields};
use super::sampling::{Common, Stop, StreamOptions, choices, max_tokens};
use super::{App, Client, aside, stream};
use crate::engine::Job;
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
    let own = app.clone();
    let (jobs, echo) = aside(move || prepare(&own, client, request)).await?;
    let answer = Answer::start(app.clone(), jobs, &echo, usage.unwrap_or(false))?;
    if streams {
        return Ok(stream::respond(&app, answer));
    }
    Ok(Json(answer.whole().await?).into_response())
}

/// The jobs of a request, and the texts to give back before the continuations.
fn prepare(
    app: &App,
    client: Client,
    request: CompletionRequest,
) -> Result<(Vec<Job>, Vec<String>), Problem> {
    let tokenizer = app.engine.tokenizer();
    let limits = &app.options.limits;
    let (texts, lists) = match request.prompt {
        Prompt::Text(text) => (vec![text], Vec::new()),
        Prompt::Texts(texts) => (texts, Vec::new()),
        Prompt::Tokens(ids) => (Vec::new(), vec![ids]),
        Prompt::TokenLists(lists) => (Vec::new(), lists),
    };
    let count = texts.len() + lists.len();
    if count == 0 || count > limits.choices {
        let message = format!("{count} prompts, not 1 to {}", limits.choices);
        return Err(Problem::parameter("prompt", message));
    }
    let n = choices(request.n, count, limits, app.engine.slots())?;
    let echo = request.echo.unwrap_or(false);
    let mut echoes = Vec::new();
    let mut prompts = lists;
    if echo {
        for ids in &prompts {
            echoes.push(tokenizer.decode(ids, false)?);
        }
        echoes.extend(texts.iter().cloned());
    }
    for text in &texts {
        prompts.push(tokenizer.encode(text, true)?);
    }
    for ids in &prompts {
        app.check_prompt("prompt", ids)?;
    }
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
    let options = common.generation(app.engine.vocab(), max_tokens, logprobs)?;
    let client = client.with_user(request.user);
    let deadline = app.deadline();
    let job = |prompt: Vec<u32>| Job {
        client: client.clone(),
        prompt,
        session: None,
        keep: false,
        options: options.clone(),
        choices: n,
        prompt_logprobs: echo && logprobs.is_some(),
        deadline,
    };
    Ok((prompts.into_iter().map(job).collect(), echoes))
}
