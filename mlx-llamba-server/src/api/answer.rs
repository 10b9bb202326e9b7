//! Answers on their way: collected whole, or as the chunks of a stream.

use std::sync::Arc;

use mlx_llamba::decode::generation::TokenLogprobs;
use mlx_llamba::tool_calls::{CallParser, Piece, ToolCall};
use mlx_llamba::{Reason, Tokenizer};
use mlx_llamba_engine::{Engine, Event, Events, Prepared};
use serde::Serialize;

use super::stream::Chunks;
use super::tokens::Logprobs;
use super::usage::Usage;
use super::{App, finish, now};
use crate::kept::{Called, Record};
use crate::problem::Problem;
use crate::request::common::UsageWanted;
use crate::request::tools::Calls;

/// The form of an endpoint's answers.
pub(crate) trait Form: Send + 'static {
    /// The kind of the answer's id.
    const ID: &'static str;
    type Logprobs: Logprobs;
    type Whole: Serialize;

    /// The whole answer.
    fn whole(head: Head, choices: Vec<Choice<Self::Logprobs>>, usage: Usage) -> Self::Whole;

    /// The events of a stream have names, and it ends with one of its own.
    const NAMED: bool = false;
    /// The progress of a stream.
    type Progress: Default + Send;

    /// The chunks, as JSON, that begin a stream.
    fn begin(_head: &Head, _progress: &mut Self::Progress, _usage: Usage) -> Vec<String> {
        Vec::new()
    }

    /// The chunks, as JSON, that add to a choice.
    fn chunks(
        head: &Head,
        progress: &mut Self::Progress,
        choice: Choice<Self::Logprobs>,
        usage: Option<Usage>,
    ) -> Vec<String>;

    /// The last chunks, as JSON, which report the usage.
    fn last(head: &Head, progress: &mut Self::Progress, usage: Usage) -> Vec<String>;
}

/// The beginning of an answer and of its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

/// A choice, or an addition to it.
pub(crate) struct Choice<L> {
    pub(crate) index: usize,
    /// Nothing of the choice was sent before.
    pub(crate) first: bool,
    pub(crate) text: String,
    /// Calls of tools, of which the choice had `called` before.
    pub(crate) calls: Vec<Called>,
    pub(crate) called: usize,
    pub(crate) logprobs: Option<L>,
    pub(crate) finish: Option<&'static str>,
    /// The stop string that ended the choice.
    pub(crate) stopped_by: Option<String>,
}

/// An answer on its way.
pub(crate) struct Answer<F: Form> {
    app: Arc<App>,
    head: Head,
    /// Special tokens around calls.
    marks: Vec<(u32, &'static str)>,
    /// True if a choice may have several calls.
    parallel: bool,
    tokenizer: Tokenizer,
    /// Choices of each request.
    n: usize,
    choices: Vec<Open<F::Logprobs>>,
    usage: Usage,
    usage_wanted: UsageWanted,
    events: Events,
    /// Choices that have not ended.
    left: usize,
    /// Of a stream that has begun.
    progress: Option<F::Progress>,
    /// The conversation to keep at the end.
    record: Option<Record>,
}

/// A choice that grows; text and tokens that were sent are taken out.
#[derive(Clone, Default)]
struct Open<L> {
    begun: bool,
    text: String,
    parser: Option<CallParser>,
    calls: Vec<Called>,
    /// The number of calls that were sent.
    called: usize,
    logprobs: Option<L>,
    finish: Option<&'static str>,
    stopped_by: Option<String>,
    /// Tokens of the prompt whose log-probabilities are still to come, the last one first.
    prompt: Vec<u32>,
}

impl<F: Form> Answer<F> {
    /// Submits requests; `echo` holds the texts that begin their choices.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) fn start(
        app: Arc<App>,
        engine: &Engine,
        requests: Vec<Prepared>,
        echo: Vec<String>,
        logprobs: bool,
        usage_wanted: UsageWanted,
        calls: Option<Calls>,
    ) -> Result<Self, Problem> {
        let head = Head { id: app.id(F::ID), created: now(), model: app.options.model.clone() };
        let tokenizer = engine.tokenizer().clone();
        let mut choices = Vec::new();
        let mut echo = echo.into_iter();
        for request in &requests {
            let mut open = Open { text: echo.next().unwrap_or_default(), ..Open::default() };
            open.parser = calls.as_ref().map(|calls| calls.parser.clone());
            open.logprobs = logprobs.then(F::Logprobs::default);
            if let Some(logprobs) = open.logprobs.as_mut().filter(|_| request.prompt_logprobs()) {
                logprobs.push(&tokenizer, request.tokens()[0], None);
                open.prompt.extend(request.tokens()[1..].iter().rev());
            }
            choices.extend(std::iter::repeat_n(open, request.choices()));
            app.log_text("prompt", &head.id, || match request.text() {
                Some(text) => text.to_owned(),
                None => tokenizer.decode(request.tokens(), false).unwrap_or_default(),
            });
        }
        // Special tokens are in no text.
        let mark = |mark: &&'static str| {
            let id = tokenizer.token_id(mark)?;
            let hidden = tokenizer.decode(&[id], true).is_ok_and(|text| text.is_empty());
            hidden.then_some((id, *mark))
        };
        let marks = calls.iter().flat_map(|calls| calls.format.marks()).filter_map(mark).collect();
        Ok(Self {
            marks,
            parallel: calls.is_none_or(|calls| calls.parallel),
            head,
            tokenizer,
            n: requests.first().map_or(1, Prepared::choices),
            left: choices.len(),
            choices,
            usage: Usage::default(),
            progress: None,
            record: None,
            usage_wanted: UsageWanted { last: usage_wanted.last || F::NAMED, ..usage_wanted },
            events: engine.enqueue(requests)?,
            app,
        })
    }

    /// Keeps the conversation, if there is a record, when the answer is complete.
    pub(crate) fn recorded(self, record: Option<Record>) -> Self {
        Self { record, ..self }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn whole(mut self) -> Result<F::Whole, Problem> {
        while self.left > 0 {
            self.take().await?;
        }
        let choices = (0..self.choices.len()).filter_map(|i| self.news(i)).collect();
        self.keep();
        Ok(F::whole(self.head, choices, self.usage))
    }

    /// Takes one event; returns the choices that it changed.
    async fn take(&mut self) -> Result<std::ops::Range<usize>, Problem> {
        let Some(event) = self.events.next().await else { return Ok(0..0) };
        match event? {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                // Shared between keys, it would tell one of them the prompts of another.
                let cached = if self.app.options.share_cache { 0 } else { cached_tokens };
                self.usage.prompt(prompt_tokens, cached);
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
                let mark =
                    self.marks.iter().find(|(mark, _)| *mark == id).map_or("", |(_, mark)| mark);
                self.add(index, &text, mark);
                let open = &mut self.choices[index];
                if let Some(all) = &mut open.logprobs {
                    all.push(&self.tokenizer, id, logprobs.as_ref());
                }
                Ok(index..index + 1)
            }
            Event::End { request, choice, text, reason } => {
                let index = request * self.n + choice;
                self.add(index, &text, "");
                let rest = self.choices[index].parser.as_mut().map(CallParser::finish);
                self.pieces(index, rest.unwrap_or_default());
                let open = &mut self.choices[index];
                let called = open.called + open.calls.len() > 0;
                open.finish = Some(match finish(&reason) {
                    "stop" if called => "tool_calls",
                    other => other,
                });
                if let Reason::Stop(text) = reason {
                    open.stopped_by = Some(text);
                }
                self.left -= 1;
                Ok(index..index + 1)
            }
            _ => Ok(0..0),
        }
    }

    /// Adds text to a choice, and a special token after it.
    fn add(&mut self, index: usize, text: &str, mark: &str) {
        let Some(parser) = &mut self.choices[index].parser else {
            return self.choices[index].text.push_str(text);
        };
        let mut pieces = parser.push(text);
        if !mark.is_empty() {
            pieces.extend(parser.push(mark));
        }
        self.pieces(index, pieces);
    }

    fn pieces(&mut self, index: usize, pieces: Vec<Piece>) {
        for piece in pieces {
            let open = &mut self.choices[index];
            if !self.parallel && open.called + open.calls.len() > 0 {
                return;
            }
            match piece {
                Piece::Text(text) => open.text.push_str(&text),
                Piece::Call(ToolCall { name, arguments, .. }) => {
                    open.calls.push(Called { id: self.app.call_id(), name, arguments });
                }
            }
        }
    }

    /// The addition to a choice since the last time, if there is any.
    fn news(&mut self, index: usize) -> Option<Choice<F::Logprobs>> {
        let open = &mut self.choices[index];
        let tokens = open.logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        if open.text.is_empty() && open.calls.is_empty() && !tokens && open.finish.is_none() {
            return None;
        }
        let text = std::mem::take(&mut open.text);
        let (calls, called) = (std::mem::take(&mut open.calls), open.called);
        open.called += calls.len();
        self.app.log_text("text", &self.head.id, || text.clone());
        if let Some(record) = &mut self.record {
            record.add(&text, &calls);
        }
        let first = !std::mem::replace(&mut open.begun, true);
        let logprobs = open.logprobs.as_mut().map(Logprobs::take);
        let stopped_by = open.stopped_by.take();
        let finish = open.finish;
        Some(Choice { index, first, text, calls, called, logprobs, finish, stopped_by })
    }
}

impl<L: Logprobs> Open<L> {
    /// Adds log-probabilities of the prompt.
    fn read(&mut self, tokenizer: &Tokenizer, found: &[TokenLogprobs]) {
        for logprobs in found {
            if let (Some(id), Some(all)) = (self.prompt.pop(), &mut self.logprobs) {
                all.push(tokenizer, id, Some(logprobs));
            }
        }
    }
}

impl<F: Form> Chunks for Answer<F> {
    const NAMED: bool = F::NAMED;

    async fn next(&mut self) -> Result<Option<Vec<String>>, Problem> {
        while self.left > 0 {
            let changed = self.take().await?;
            let choices: Vec<_> = changed.filter_map(|index| self.news(index)).collect();
            if !choices.is_empty() {
                let usage = self.usage_wanted.every.then_some(self.usage);
                let mut chunks = self.begin();
                let progress = self.progress.get_or_insert_default();
                for choice in choices {
                    chunks.extend(F::chunks(&self.head, progress, choice, usage));
                }
                return Ok(Some(chunks));
            }
        }
        self.keep();
        if !std::mem::take(&mut self.usage_wanted.last) {
            return Ok(None);
        }
        let mut chunks = self.begin();
        chunks.extend(F::last(&self.head, self.progress.get_or_insert_default(), self.usage));
        Ok(Some(chunks))
    }
}

impl<F: Form> Answer<F> {
    fn keep(&mut self) {
        if let Some(record) = self.record.take() {
            self.app.responses.add(&self.head.id, record);
        }
    }

    /// The chunks that begin a stream, once.
    fn begin(&mut self) -> Vec<String> {
        if self.progress.is_some() {
            return Vec::new();
        }
        F::begin(&self.head, self.progress.insert(F::Progress::default()), self.usage)
    }
}
