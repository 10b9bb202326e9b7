//! Options of a generation, and its results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use derive_setters::Setters;
use serde::Serialize;

use super::processor::{LogitsProcessor, Processors};
#[cfg(feature = "constraints")]
use crate::constraint::Constraint;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::sample::Sampling;
use crate::state::State;

/// Options for continuing a prompt.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
#[setters(strip_option)]
pub struct Generation {
    /// The choice of tokens.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// The text ends before any of these strings.
    #[setters(skip)]
    pub stop: Vec<String>,
    /// Ids that end the text. `None`: those that the tokenizer and the checkpoint name.
    pub eos: Option<Vec<u32>>,
    /// Report log-probabilities: of the chosen token, and of this many of the most likely.
    pub logprobs: Option<usize>,
    /// The size of the chunks in which the prompt is read, in tokens. Larger is faster, up to a
    /// point, and takes more memory. `None`: [`prefill_of`](super::prefill_of) the device.
    pub prefill: Option<usize>,
    /// Request a token before the one before it is handed out. `None`: on GPUs, where that hides
    /// the caller's work; on CPUs it would only delay each token.
    pub pipelined: Option<bool>,
    /// Allow only texts of a grammar.
    #[cfg(feature = "constraints")]
    pub constraint: Option<Constraint>,
    /// Hooks into the choice of tokens.
    #[setters(skip)]
    pub processors: Processors,
    /// Ends the generation from another thread.
    pub cancel: Cancel,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            max_tokens: 256,
            stop: Vec::new(),
            eos: None,
            logprobs: None,
            prefill: None,
            pipelined: None,
            #[cfg(feature = "constraints")]
            constraint: None,
            processors: Processors::default(),
            cancel: Cancel::default(),
        }
    }
}

impl Generation {
    /// Returns the default options but for the sampling: always the most likely token.
    #[must_use]
    pub fn greedy() -> Self {
        Self::default().sampling(Sampling::greedy())
    }

    /// Sets the sampling's temperature.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.sampling.temperature = temperature;
        self
    }

    /// Sets the sampling's seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = Some(seed);
        self
    }

    /// Adds a [`stop`](field@Self::stop) string.
    #[must_use]
    pub fn stop(mut self, stop: impl Into<String>) -> Self {
        self.stop.push(stop.into());
        self
    }

    /// Adds a [hook](LogitsProcessor) into the choice of tokens.
    #[must_use]
    pub fn processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.processors.push(processor);
        self
    }

    pub(crate) fn validate(&self, vocab_size: usize) -> Result<()> {
        self.sampling.validate(vocab_size)?;
        let bad = |option, value: String, expected: &str| {
            Err(Error::Argument { name: option, value, expected: expected.to_owned() })
        };
        if let Some(prefill) = self.prefill.filter(|prefill| !(1..=1 << 20).contains(prefill)) {
            return bad("prefill", prefill.to_string(), "1 to 1048576 tokens");
        }
        if self.stop.iter().any(String::is_empty) {
            return bad("stop", "\"\"".to_owned(), "a string that is not empty");
        }
        match self.logprobs {
            Some(top) if top > vocab_size => {
                bad("logprobs", top.to_string(), &format!("at most {vocab_size}"))
            }
            _ => Ok(()),
        }
    }
}

/// A switch that ends generations from another thread; clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends every generation that holds this switch, after its current token.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns true once [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An item of a stream: chunks of the prompt, then one token at a time, then the end.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// A chunk of the prompt was read.
    #[serde(rename = "prompt")]
    Prefill {
        /// The number of tokens read so far.
        read: usize,
        /// The number of tokens of the prompt.
        total: usize,
    },
    /// A token was generated.
    Token {
        /// Text that this token completes; empty while a character or a possible stop string
        /// is unfinished.
        text: String,
        /// Its id.
        id: u32,
        /// Its log-probabilities, if requested.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<TokenLogprobs>,
    },
    /// The end; nothing follows.
    End {
        /// Text held back until now.
        text: String,
        /// Why it ended.
        reason: Reason,
        /// Counts, times and memory.
        stats: Stats,
    },
}

impl Event {
    /// The text that this event adds.
    pub fn text(&self) -> &str {
        match self {
            Self::Prefill { .. } => "",
            Self::Token { text, .. } | Self::End { text, .. } => text,
        }
    }
}

/// Log-probabilities at one position: natural logarithms of the model's own distribution.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// The log-probability of the chosen token.
    pub chosen: f32,
    /// The most likely tokens with theirs, in descending order.
    pub top: Vec<(u32, f32)>,
}

/// The reason for which a text ended.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Reason {
    /// The model ended it with this token.
    Eos(u32),
    /// This stop string was generated.
    Stop(String),
    /// It satisfies its constraint, and nothing can follow.
    Complete,
    /// Its constraint cannot be followed any further, for this reason.
    Constraint(String),
    /// [`Generation::max_tokens`] were generated.
    Length,
    /// It was cancelled.
    Cancelled,
}

/// Counts, times and memory of one generation.
#[non_exhaustive]
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// The number of tokens read before the first one was generated.
    pub prompt_tokens: usize,
    /// The number of tokens generated, an end-of-text token included.
    pub generated_tokens: usize,
    /// Seconds from the call to the first token.
    pub time_to_first_token: f64,
    /// Prompt tokens per second, up to the first generated token.
    pub prompt_tokens_per_second: f64,
    /// Generated tokens per second after the first.
    pub decode_tokens_per_second: f64,
    /// The most memory that MLX held during the generation, weights included, in bytes: exact if
    /// the process had never held more before, else the most that was seen between steps.
    pub peak_memory: usize,
    /// The seed in use.
    pub seed: u64,
}

impl Stats {
    /// Adds time that was spent on prefill before this generation.
    #[cfg(feature = "chat")]
    pub(crate) fn add_reading(&mut self, time: Duration) {
        self.time_to_first_token += time.as_secs_f64();
        if self.time_to_first_token > 0.0 {
            self.prompt_tokens_per_second = self.prompt_tokens as f64 / self.time_to_first_token;
        }
    }

    pub(crate) fn time(&mut self, first: Duration, total: Duration) {
        let rate = |count: usize, time: f64| if time > 0.0 { count as f64 / time } else { 0.0 };
        let (first, total) = (first.as_secs_f64(), total.as_secs_f64());
        self.time_to_first_token = first;
        self.prompt_tokens_per_second = rate(self.prompt_tokens, first);
        let after = self.generated_tokens.saturating_sub(1);
        self.decode_tokens_per_second = rate(after, total - first);
    }
}

/// A finished generation.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Completion<S = State> {
    /// The text; empty if the model has no tokenizer.
    pub text: String,
    /// The generated ids, an end-of-text token included.
    pub tokens: Vec<u32>,
    /// One entry per token, if requested.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub reason: Reason,
    /// Counts, times and memory.
    pub stats: Stats,
    /// The context after the last token, to continue from.
    pub context: Context<S>,
}
