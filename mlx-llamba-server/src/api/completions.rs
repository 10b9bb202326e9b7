//! `POST /v1/completions`

mod answer;

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use mlx_llamba::constraint::Constraint;
use mlx_llamba_engine::{Prepared, Request};
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::Answer;
use super::{App, Call, stream};
use crate::problem::Problem;
use crate::request::body::{Body, Object, part};
use crate::request::common::Common;
use crate::request::prompt::Prompt;
use crate::request::structured::Structured;
pub(crate) use answer::Completion;
use answer::Text;

/// The tokens that a request generates without saying how many.
const DEFAULT_TOKENS: usize = 16;

/// The fields of a completion request that chat requests do not have.
#[derive(Debug, Deserialize, JsonSchema)]
struct Fields {
    prompt: Prompt,
    /// Return the prompt before its continuation.
    echo: Option<bool>,
    /// The number of most likely tokens to report.
    #[schemars(range(min = 0, max = 20))]
    logprobs: Option<u32>,
}

/// A request for completions. It generates 16 tokens by default.
#[derive(Debug, JsonSchema)]
pub(crate) struct CompletionRequest {
    #[serde(flatten)]
    common: Common,
    #[serde(flatten)]
    structured: Structured,
    #[serde(flatten)]
    completion: Fields,
}

impl Body for CompletionRequest {
    const FREE: &'static [&'static str] =
        &["guided_json", "model", "prompt", "response_format", "structured_outputs"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        Ok(Self { common: part(object)?, structured: part(object)?, completion: part(object)? })
    }

    fn model(&self) -> Option<&str> {
        self.common.model.as_deref()
    }
}

/// `POST /v1/completions`
pub(crate) async fn create(
    app: Arc<App>,
    mut call: Call<CompletionRequest>,
) -> Result<Response, Problem> {
    let streams = call.body.common.stream.unwrap_or(false);
    let usage = call.body.common.usage_wanted();
    let fields = &call.body.completion;
    let (echo, logprobs) = (fields.echo.unwrap_or(false), fields.logprobs.is_some());
    let client = call.client.clone();
    let engine = client.engine.clone();
    let structured = std::mem::take(&mut call.body.structured);
    let constraint = app.constraint(structured.grammar()?, &client).await?;
    let prepared = engine.prepare(requests(&app, call, constraint)?).await?;
    client.memory.shrink(prepared.iter().map(Prepared::bytes).sum());
    let echo = if echo { texts(&app, &prepared).await? } else { Vec::new() };
    let answer =
        Answer::<Text>::start(app.clone(), &engine, prepared, echo, logprobs, usage, None)?;
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

/// Makes the engine's requests, one for each prompt.
fn requests(
    app: &App,
    call: Call<CompletionRequest>,
    constraint: Option<Constraint>,
) -> Result<Vec<Request>, Problem> {
    let Call { client, body: CompletionRequest { common, completion, .. }, .. } = call;
    let limits = &app.options.limits;
    let prompts: Vec<mlx_llamba_engine::Prompt> = match completion.prompt {
        Prompt::Text(text) => vec![text.into()],
        Prompt::Texts(texts) => texts.into_iter().map(Into::into).collect(),
        Prompt::Tokens(ids) => vec![ids.into()],
        Prompt::TokenLists(lists) => lists.into_iter().map(Into::into).collect(),
    };
    let (count, n) = (prompts.len(), common.n.unwrap_or(1) as usize);
    if count == 0 || count > limits.choices {
        let message = format!("{count} prompts, not 1 to {}", limits.choices);
        return Err(Problem::parameter("prompt", message));
    }
    if n * count > limits.choices {
        let message = format!("{count} prompts times {n}: more than {} choices", limits.choices);
        return Err(Problem::parameter("n", message));
    }
    let prompt_logprobs = completion.echo.unwrap_or(false) && completion.logprobs.is_some();
    let request = common.request(app, &client, DEFAULT_TOKENS, completion.logprobs, constraint)?;
    let request = |prompt| request(prompt).prompt_logprobs(prompt_logprobs);
    Ok(prompts.into_iter().map(request).collect())
}
