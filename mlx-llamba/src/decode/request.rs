//! Requests to a [`Batch`](super::batch::Batch), and its events.

use derive_setters::Setters;

use super::generation::{Generation, Reason, TokenLogprobs};
use crate::context::Context;

/// Identifies a request of one [`Batch`](super::batch::Batch).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

/// A prompt to read and continue.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
pub struct BatchRequest {
    /// The position to continue from.
    pub context: Context,
    /// Token ids to read first; may be empty if the context has tokens pending.
    pub prompt: Vec<u32>,
    /// Options of the continuations. The batch ignores `prefill` and `pipelined`.
    pub options: Generation,
    /// The number of continuations of the prompt, which is read once. With a seed, choice `i`
    /// draws from `seed + i`.
    pub choices: usize,
    /// Report log-probabilities of the prompt's tokens, all but the first, with as many of the
    /// most likely tokens as [`Generation::logprobs`] says.
    pub prompt_logprobs: bool,
    /// Positions in the prompt, in tokens with those pending in the context, at which to report
    /// the context. The last token before such a position is left pending, so that the context
    /// can be continued without a prompt.
    pub snapshots: Vec<usize>,
}

impl BatchRequest {
    /// A request for one continuation.
    pub fn new(context: Context, prompt: Vec<u32>, options: Generation) -> Self {
        Self { context, prompt, options, choices: 1, prompt_logprobs: false, snapshots: Vec::new() }
    }
}

/// A step of a request, with the request it belongs to.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct BatchEvent {
    /// The request.
    pub request: RequestId,
    /// The continuation, counted from 0. Steps of the prompt belong to choice 0.
    pub choice: usize,
    /// The step.
    pub step: Step,
}

/// A step of a request.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum Step {
    /// A chunk of the prompt was read.
    Prefill {
        /// The number of tokens read so far.
        read: usize,
        /// The number of tokens of the prompt.
        total: usize,
        /// Log-probabilities of the tokens after those of this chunk, if requested.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The context at a requested position. Lazy: evaluate its state
    /// ([`State::eval`](crate::State::eval)) before keeping it.
    Snapshot {
        /// The number of tokens of the prompt before the position.
        read: usize,
        /// The context there.
        context: Context,
    },
    /// A token was generated.
    Token {
        /// Text that this token completes.
        text: String,
        /// Its id.
        id: u32,
        /// Its log-probabilities, if requested.
        logprobs: Option<TokenLogprobs>,
    },
    /// The continuation has ended.
    End {
        /// Text held back until now.
        text: String,
        /// Why it ended.
        reason: Reason,
        /// The context after the last token. Lazy, as that of a snapshot.
        context: Context,
    },
}
