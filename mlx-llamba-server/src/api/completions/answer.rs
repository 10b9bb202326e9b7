//! Completions, whole or in pieces.

use std::sync::Arc;

use mlx_llamba::{TokenLogprobs, Tokenizer};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::stream::{self, Chunks};
use crate::api::tokens::CompletionLogprobs;
use crate::api::usage::Usage;
use crate::api::{App, finish, now};
use crate::engine::{Job, Replies, Reply};
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
    /// Hands the jobs over; `echo` are the texts to give back before the continuations.
    pub(super) fn start(
        app: Arc<App>,
        jobs: Vec<Job>,
        echo: &[String],
        usage_wanted: bool,
    ) -> Result<Self, Problem> {
        let logprobs = jobs.first().is_some_and(|job| job.options.logprobs.is_some());
        let mut answer = Self {
            head: Head { id: app.id("cmpl"), created: now(), model: app.options.model.clone() },
            tokenizer: app.engine.tokenizer().clone(),
            app,
            n: jobs.first().map_or(1, |job| job.choices),
            choices: Vec::new(),
            usage: Usage::default(),
            usage_wanted,
            replies: None,
            left: 0,
        };
        answer.open(&jobs, echo, logprobs);
        answer.replies = Some(answer.app.engine.submit(jobs)?);
        Ok(answer)
    }

    /// Waits for the end.
    pub(super) async fn whole(mut self) -> Result<Completion, Problem> {
        while self.left > 0 {
            self.take().await?;
        }
        let choices = (0..self.choices.len()).map(|i| self.choice(i)).collect();
        Ok(self.head.completion(choices, Some(self.usage)))
    }

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
