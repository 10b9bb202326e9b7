//! A chat completion, whole or in pieces.

use std::sync::Arc;

use mlx_llamba::Tokenizer;
use mlx_llamba_engine::{Event, Events, Prepared};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::stream::{self, Chunks};
use crate::api::tokens::ChatLogprobs;
use crate::api::usage::Usage;
use crate::api::{App, finish, now};
use crate::problem::Problem;

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

/// An answer on its way.
pub(super) struct Answer {
    app: Arc<App>,
    tokenizer: Tokenizer,
    id: String,
    created: u64,
    choices: Vec<Open>,
    usage: Usage,
    usage_wanted: bool,
    events: Events,
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
    /// Submits a request.
    pub(super) fn start(
        app: Arc<App>,
        id: String,
        prepared: Vec<Prepared>,
        logprobs: bool,
        usage_wanted: bool,
    ) -> Result<Self, Problem> {
        let n = prepared.iter().map(Prepared::choices).sum();
        let open = || Open { logprobs: logprobs.then(ChatLogprobs::default), ..Open::default() };
        Ok(Self {
            tokenizer: app.engine.tokenizer().clone(),
            id,
            created: now(),
            choices: (0..n).map(|_| open()).collect(),
            usage: Usage::default(),
            usage_wanted,
            events: app.engine.enqueue(prepared)?,
            left: n,
            app,
        })
    }

    /// Takes one event; returns the choice that it changed.
    async fn take(&mut self) -> Result<Option<usize>, Problem> {
        let Some(event) = self.events.next().await else { return Ok(None) };
        let event = event?;
        match event {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                self.usage.prompt(prompt_tokens, cached_tokens);
                Ok(None)
            }
            Event::Token { choice, text, id, logprobs, .. } => {
                self.usage.token();
                let open = &mut self.choices[choice];
                open.text.push_str(&text);
                if let (Some(all), Some(found)) = (&mut open.logprobs, logprobs) {
                    all.push(&self.tokenizer, id, &found);
                }
                Ok(Some(choice))
            }
            Event::End { choice, text, reason, .. } => {
                let open = &mut self.choices[choice];
                open.text.push_str(&text);
                open.finish = Some(finish(&reason));
                self.left -= 1;
                Ok(Some(choice))
            }
            _ => Ok(None),
        }
    }

    /// Waits for the end.
    pub(super) async fn whole(mut self) -> Result<ChatCompletion, Problem> {
        while self.left > 0 {
            self.take().await?;
        }
        let choice = |(index, open): (usize, Open)| {
            self.app.log_text("text", &self.id, || open.text.clone());
            let message = ReplyMessage { role: "assistant", content: open.text, refusal: None };
            let finish_reason = open.finish.unwrap_or("stop");
            Choice { index, message, logprobs: open.logprobs, finish_reason }
        };
        Ok(ChatCompletion {
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
        })
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
