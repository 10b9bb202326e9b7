//! `POST /v1/completions`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use mlx_llamba::{TokenLogprobs, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fields::{Fields, fields};
use super::sampling::{Common, Stop, StreamOptions, choices, max_tokens};
use super::stream::{self, Chunks};
use super::tokens::CompletionLogprobs;
use super::usage::Usage;
use super::{App, Client, aside, finish, now};
use crate::engine::{Job, Replies, Reply};
use crate::problem::Problem;

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

/// A continuation.
#[derive(Debug, Serialize, JsonSchema)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` before the end.
    finish_reason: Option<&'static str>,
}

/// Continuations, or a piece of a stream of them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

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
    let n = jobs.first().map_or(1, |job| job.choices);
    let logprobs = jobs.first().is_some_and(|job| job.options.logprobs.is_some());
    let mut answer = Answer {
        head: Head { id: app.id("cmpl"), created: now(), model: app.options.model.clone() },
        tokenizer: app.engine.tokenizer().clone(),
        app: app.clone(),
        n,
        choices: Vec::new(),
        usage: Usage::default(),
        usage_wanted: usage.unwrap_or(false),
        replies: None,
        left: 0,
    };
    answer.open(&jobs, &echo, logprobs);
    answer.replies = Some(app.engine.submit(jobs)?);
    if streams {
        return Ok(stream::respond(&app, answer));
    }
    while answer.left > 0 {
        answer.take().await?;
    }
    let choices = (0..answer.choices.len()).map(|i| answer.choice(i)).collect();
    let usage = Some(answer.usage);
    Ok(Json(answer.head.completion(choices, usage)).into_response())
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

/// What every piece of an answer begins with.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn completion(&self, choices: Vec<Choice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

/// An answer on its way.
struct Answer {
    app: Arc<App>,
    head: Head,
    tokenizer: Tokenizer,
    /// Continuations of each prompt.
    n: usize,
    choices: Vec<Open>,
    usage: Usage,
    usage_wanted: bool,
    replies: Option<Replies>,
    /// Continuations that have not ended.
    left: usize,
}

/// A continuation that grows; what was sent is taken out.
#[derive(Default)]
struct Open {
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish: Option<&'static str>,
    /// Tokens of the prompt whose log-probabilities are still to come.
    prompt: Vec<u32>,
}

impl Answer {
    fn open(&mut self, jobs: &[Job], echo: &[String], logprobs: bool) {
        for (i, job) in jobs.iter().enumerate() {
            for _ in 0..self.n {
                let mut open =
                    Open { text: echo.get(i).cloned().unwrap_or_default(), ..Open::default() };
                open.logprobs = logprobs.then(CompletionLogprobs::default);
                if let Some(logprobs) = open.logprobs.as_mut().filter(|_| job.prompt_logprobs) {
                    logprobs.push(&self.tokenizer, job.prompt[0], None);
                    open.prompt.extend(job.prompt[1..].iter().rev());
                }
                self.choices.push(open);
            }
            let what = || self.tokenizer.decode(&job.prompt, false).unwrap_or_default();
            self.app.log_text("prompt", &self.head.id, what);
        }
        self.left = self.choices.len();
    }

    /// Takes one reply; gives the choices that it changed.
    async fn take(&mut self) -> Result<std::ops::Range<usize>, Problem> {
        let Some(replies) = &mut self.replies else { return Ok(0..0) };
        let (job, reply) = replies.next().await?;
        let first = job * self.n;
        Ok(match reply {
            Reply::Started { prompt, cached } => {
                self.usage.prompt(prompt, cached);
                0..0
            }
            Reply::Read { logprobs } => {
                for open in &mut self.choices[first..first + self.n] {
                    open.read(&self.tokenizer, &logprobs);
                }
                first..first + self.n
            }
            Reply::Token { choice, text, id, logprobs } => {
                self.usage.token();
                let open = &mut self.choices[first + choice];
                open.text.push_str(&text);
                if let Some(all) = &mut open.logprobs {
                    all.push(&self.tokenizer, id, logprobs.as_ref());
                }
                first + choice..first + choice + 1
            }
            Reply::End { choice, text, reason } => {
                let open = &mut self.choices[first + choice];
                open.text.push_str(&text);
                open.finish = Some(finish(&reason));
                self.left -= 1;
                first + choice..first + choice + 1
            }
            Reply::Failed(problem) => return Err(problem),
        })
    }

    /// What there is of a choice since the last time.
    fn choice(&mut self, index: usize) -> Choice {
        let open = &mut self.choices[index];
        let text = std::mem::take(&mut open.text);
        self.app.log_text("text", &self.head.id, || text.clone());
        let logprobs = open.logprobs.as_mut().map(CompletionLogprobs::take);
        Choice { text, index, logprobs, finish_reason: open.finish }
    }
}

impl Open {
    /// Log-probabilities of more of the prompt.
    fn read(&mut self, tokenizer: &Tokenizer, found: &[TokenLogprobs]) {
        for logprobs in found {
            if let (Some(id), Some(all)) = (self.prompt.pop(), &mut self.logprobs) {
                all.push(tokenizer, id, Some(logprobs));
            }
        }
    }

    /// Nothing to tell yet.
    fn is_empty(&self) -> bool {
        let tokens = self.logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        self.text.is_empty() && !tokens && self.finish.is_none()
    }
}

impl Chunks for Answer {
    async fn next(&mut self) -> Result<Option<Vec<String>>, Problem> {
        while self.left > 0 {
            let mut chunks = Vec::new();
            for index in self.take().await? {
                if !self.choices[index].is_empty() {
                    let choice = self.choice(index);
                    chunks.push(stream::json(&self.head.completion(vec![choice], None)));
                }
            }
            if !chunks.is_empty() {
                return Ok(Some(chunks));
            }
        }
        if std::mem::take(&mut self.usage_wanted) {
            let last = self.head.completion(Vec::new(), Some(self.usage));
            return Ok(Some(vec![stream::json(&last)]));
        }
        Ok(None)
    }
}
