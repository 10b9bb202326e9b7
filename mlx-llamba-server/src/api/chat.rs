//! `POST /v1/chat/completions`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use mlx_llamba::{ChatOptions, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, fields};
use super::messages::{ChatMessage, messages};
use super::sampling::{Common, Stop, StreamOptions, choices, max_tokens};
use super::stream::{self, Chunks};
use super::tokens::ChatLogprobs;
use super::usage::Usage;
use super::{App, Client, aside, finish, now};
use crate::engine::{Job, Replies, Reply, SessionTurn};
use crate::problem::Problem;

/// A tool, as the chat template wants it.
pub(crate) type Tool = BTreeMap<String, Value>;

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

/// The model's message.
#[derive(Debug, Serialize, JsonSchema)]
struct ReplyMessage {
    role: &'static str,
    content: String,
    /// Always `null`.
    refusal: Option<()>,
}

/// One of the messages that were asked for.
#[derive(Debug, Serialize, JsonSchema)]
struct Choice {
    index: usize,
    message: ReplyMessage,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

/// Messages of the model.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
}

/// What a message has grown by.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// A message that grows.
#[derive(Debug, Serialize, JsonSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`; `null` before the end.
    finish_reason: Option<&'static str>,
}

/// A piece of a stream of messages.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

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
    let own = app.clone();
    let (job, text) = aside(move || prepare(&own, client, request, session)).await?;
    let id = app.id("chatcmpl");
    app.log_text("prompt", &id, || text);
    let n = job.choices;
    let logprobs = job.options.logprobs.is_some();
    let open = || Open { logprobs: logprobs.then(ChatLogprobs::default), ..Open::default() };
    let replies = app.engine.submit(vec![job])?;
    let mut answer = Answer {
        tokenizer: app.engine.tokenizer().clone(),
        id,
        created: now(),
        choices: (0..n).map(|_| open()).collect(),
        usage: Usage::default(),
        usage_wanted: usage.unwrap_or(false),
        replies,
        left: n,
        app,
    };
    if streams {
        let app = answer.app.clone();
        return Ok(stream::respond(&app, answer));
    }
    while answer.left > 0 {
        answer.take().await?;
    }
    Ok(Json(answer.whole()).into_response())
}

/// The job of a request, and the text that the conversation became.
fn prepare(
    app: &App,
    client: Client,
    request: ChatRequest,
    session: Option<String>,
) -> Result<(Job, String), Problem> {
    let limits = &app.options.limits;
    let messages = messages(request.messages)?;
    let n = choices(request.n, 1, limits, app.engine.slots())?;
    let (prompt, text, session) = match session {
        None => {
            let template = app.engine.template().ok_or_else(Problem::no_template)?;
            let options = ChatOptions { tools: tools(request.tools)?, ..ChatOptions::default() };
            let text = template.render(&messages, true, &options)?;
            let prompt = app.engine.tokenizer().encode(&text, false)?;
            app.check_prompt("messages", &prompt)?;
            (prompt, text, None)
        }
        Some(_) if n > 1 => return Err(Problem::parameter("n", "a session has one next message")),
        Some(_) if request.tools.is_some() => {
            return Err(Problem::parameter(
                "tools",
                "a session's tools are given at its beginning",
            ));
        }
        Some(id) => {
            let text = messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n");
            (Vec::new(), text, Some(SessionTurn { id, messages }))
        }
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
    let job = Job {
        client: client.with_user(request.user),
        prompt,
        session,
        keep: true,
        options: common.generation(app.engine.vocab(), max_tokens, logprobs)?,
        choices: n,
        prompt_logprobs: false,
        deadline: app.deadline(),
    };
    Ok((job, text))
}

/// The tools for the template.
pub(super) fn tools(given: Option<Vec<Tool>>) -> Result<Option<mlx_llamba::Json>, Problem> {
    let Some(tools) = given else { return Ok(None) };
    if tools.len() > 128 {
        return Err(Problem::parameter("tools", format!("{} are more than 128", tools.len())));
    }
    let tools = serde_json::to_value(tools).and_then(serde_json::from_value);
    tools.map(Some).map_err(|e| Problem::parameter("tools", e))
}

/// An answer on its way.
struct Answer {
    app: Arc<App>,
    tokenizer: Tokenizer,
    id: String,
    created: u64,
    choices: Vec<Open>,
    usage: Usage,
    usage_wanted: bool,
    replies: Replies,
    /// Messages that have not ended.
    left: usize,
}

/// A message that grows; what was sent is taken out.
#[derive(Default)]
struct Open {
    /// Its role was told.
    begun: bool,
    text: String,
    logprobs: Option<ChatLogprobs>,
    finish: Option<&'static str>,
}

impl Answer {
    /// Takes one reply; gives the choice that it changed.
    async fn take(&mut self) -> Result<Option<usize>, Problem> {
        Ok(match self.replies.next().await?.1 {
            Reply::Started { prompt, cached } => {
                self.usage.prompt(prompt, cached);
                None
            }
            Reply::Read { .. } => None,
            Reply::Token { choice, text, id, logprobs } => {
                self.usage.token();
                let open = &mut self.choices[choice];
                open.text.push_str(&text);
                if let (Some(all), Some(found)) = (&mut open.logprobs, logprobs) {
                    all.push(&self.tokenizer, id, &found);
                }
                Some(choice)
            }
            Reply::End { choice, text, reason } => {
                let open = &mut self.choices[choice];
                open.text.push_str(&text);
                open.finish = Some(finish(&reason));
                self.left -= 1;
                Some(choice)
            }
            Reply::Failed(problem) => return Err(problem),
        })
    }

    fn whole(mut self) -> ChatCompletion {
        let choice = |(index, open): (usize, Open)| {
            self.app.log_text("text", &self.id, || open.text.clone());
            let message = ReplyMessage { role: "assistant", content: open.text, refusal: None };
            let finish_reason = open.finish.unwrap_or("stop");
            Choice { index, message, logprobs: open.logprobs, finish_reason }
        };
        ChatCompletion {
            choices: std::mem::take(&mut self.choices)
                .into_iter()
                .enumerate()
                .map(choice)
                .collect(),
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.app.options.model.clone(),
            usage: self.usage,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        stream::json(&ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.app.options.model.clone(),
            choices,
            usage,
        })
    }

    /// What there is of a message since the last time.
    fn news(&mut self, index: usize) -> Vec<String> {
        let open = &mut self.choices[index];
        let mut choices = Vec::new();
        let plain = |delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
        if !std::mem::replace(&mut open.begun, true) {
            choices.push(plain(Delta { role: Some("assistant"), content: Some(String::new()) }));
        }
        let tokens = open.logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        if !open.text.is_empty() || tokens {
            let content = std::mem::take(&mut open.text);
            self.app.log_text("text", &self.id, || content.clone());
            let logprobs = open.logprobs.as_mut().map(std::mem::take);
            let delta = Delta { role: None, content: Some(content) };
            choices.push(ChunkChoice { logprobs, ..plain(delta) });
        }
        if let Some(reason) = open.finish {
            choices.push(ChunkChoice { finish_reason: Some(reason), ..plain(Delta::default()) });
        }
        choices.into_iter().map(|choice| self.chunk(vec![choice], None)).collect()
    }
}

impl Chunks for Answer {
    async fn next(&mut self) -> Result<Option<Vec<String>>, Problem> {
        while self.left > 0 {
            if let Some(index) = self.take().await? {
                let chunks = self.news(index);
                if !chunks.is_empty() {
                    return Ok(Some(chunks));
                }
            }
        }
        if std::mem::take(&mut self.usage_wanted) {
            return Ok(Some(vec![self.chunk(Vec::new(), Some(self.usage))]));
        }
        Ok(None)
    }
}
