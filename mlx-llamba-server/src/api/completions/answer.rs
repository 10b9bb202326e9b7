//! Completions, whole or in pieces.

use std::sync::Arc;

use mlx_llamba::{TokenLogprobs, Tokenizer};
use mlx_llamba_engine::{Event, Events, Prepared};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::stream::{self, Chunks};
use crate::api::tokens::CompletionLogprobs;
use crate::api::usage::Usage;
use crate::api::{App, finish, now};
use crate::problem::Problem;

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
pub(super) struct Answer {
    app: Arc<App>,
    head: Head,
    tokenizer: Tokenizer,
    /// Continuations of each prompt.
    n: usize,
    choices: Vec<Open>,
    usage: Usage,
    usage_wanted: bool,
    events: Events,
    /// Continuations that have not ended.
    left: usize,
}

/// A continuation that grows; what was sent is taken out.
#[derive(Clone, Default)]
struct Open {
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish: Option<&'static str>,
    /// Tokens of the prompt whose log-probabilities are still to come.
    prompt: Vec<u32>,
}

impl Answer {
    /// Submits requests; `echo` holds the texts to return before the continuations.
    pub(super) fn start(
        app: Arc<App>,
        prepared: Vec<Prepared>,
        echo: Vec<String>,
        logprobs: bool,
        usage_wanted: bool,
    ) -> Result<Self, Problem> {
        let head = Head { id: app.id("cmpl"), created: now(), model: app.options.model.clone() };
        let tokenizer = app.engine.tokenizer().clone();
        let mut choices = Vec::new();
        let mut echo = echo.into_iter();
        for request in &prepared {
            let mut open = Open { text: echo.next().unwrap_or_default(), ..Open::default() };
            open.logprobs = logprobs.then(CompletionLogprobs::default);
            if let Some(logprobs) = open.logprobs.as_mut().filter(|_| request.prompt_logprobs()) {
                logprobs.push(&tokenizer, request.tokens()[0], None);
                open.prompt.extend(request.tokens()[1..].iter().rev());
            }
            choices.extend(std::iter::repeat_n(open, request.choices()));
            let what = || tokenizer.decode(request.tokens(), false).unwrap_or_default();
            app.log_text("prompt", &head.id, what);
        }
        Ok(Self {
            head,
            tokenizer,
            n: prepared.first().map_or(1, Prepared::choices),
            left: choices.len(),
            choices,
            usage: Usage::default(),
            usage_wanted,
            events: app.engine.enqueue(prepared)?,
            app,
        })
    }

    /// Waits for the end.
    pub(super) async fn whole(mut self) -> Result<Completion, Problem> {
        while self.left > 0 {
            self.take().await?;
        }
        let choices = (0..self.choices.len()).map(|i| self.choice(i)).collect();
        Ok(self.head.completion(choices, Some(self.usage)))
    }

    /// Takes one event; returns the choices that it changed.
    async fn take(&mut self) -> Result<std::ops::Range<usize>, Problem> {
        let Some(event) = self.events.next().await else { return Ok(0..0) };
        match event? {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                self.usage.prompt(prompt_tokens, cached_tokens);
                Ok(0..0)
            }
            Event::Prefill { request, logprobs } => {
                let changed = request * self.n..(request + 1) * self.n;
                for open in &mut self.choices[changed.clone()] {
                    open.read(&self.tokenizer, &logprobs);
                }
                Ok(changed)
            }
            Event::Token { request, choice, text, id, logprobs } => {
                self.usage.token();
                let index = request * self.n + choice;
                let open = &mut self.choices[index];
                open.text.push_str(&text);
                if let Some(all) = &mut open.logprobs {
                    all.push(&self.tokenizer, id, logprobs.as_ref());
                }
                Ok(index..index + 1)
            }
            Event::End { request, choice, text, reason } => {
                let index = request * self.n + choice;
                let open = &mut self.choices[index];
                open.text.push_str(&text);
                open.finish = Some(finish(&reason));
                self.left -= 1;
                Ok(index..index + 1)
            }
            _ => Ok(0..0),
        }
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
