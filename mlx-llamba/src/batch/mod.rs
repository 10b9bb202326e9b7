//! Many generations at once: every forward serves all the rows that decode.
//!
//! A row is one generation. Rows join and leave between any two steps; a row reads its prompt in
//! pieces, and pieces take turns with decoding, so that a long prompt makes the others wait for
//! one piece at most. A row's tokens are those that [`Stream`](crate::Stream) gives for the same
//! options: it has a sampler, a detokenizer and stop strings of its own, and sees no other row.

mod ask;
mod decoding;
mod reading;
mod row;
#[cfg(test)]
mod tests;

use mlx_rs::{Device, DeviceType};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::generation::{Generation, Reason, TokenLogprobs};
use crate::llamba::Llamba;
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use decoding::Decoding;
use reading::Reading;

/// Names a request of one [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(u64);

/// What a row is to do.
#[derive(Debug, Clone)]
pub struct RowRequest {
    /// The place to go on from.
    pub context: Context,
    /// Ids to read first; may be empty if the context has tokens pending.
    pub prompt: Vec<u32>,
    /// How to go on. `prefill` and `pipelined` are the batch's to choose.
    pub options: Generation,
    /// So many continuations of the prompt, which is read once. With a seed, the one numbered `i`
    /// draws from `seed + i`.
    pub choices: usize,
    /// Report log-probabilities of the prompt's tokens, all but the first; as many likeliest ones
    /// as [`Generation::logprobs`] says.
    pub prompt_logprobs: bool,
    /// Places in the prompt (in tokens, those pending in the context included) at which to hand
    /// out the context. Its last token is pending, so that it can be gone on from without any
    /// prompt.
    pub snapshots: Vec<usize>,
}

impl RowRequest {
    /// One continuation and nothing else.
    pub fn new(context: Context, prompt: Vec<u32>, options: Generation) -> Self {
        Self { context, prompt, options, choices: 1, prompt_logprobs: false, snapshots: Vec::new() }
    }
}

/// Something that a row did.
#[derive(Debug, Clone)]
pub struct RowEvent {
    /// Whose.
    pub row: RowId,
    /// Which of its continuations, from 0. Everything of the prompt is 0's.
    pub choice: usize,
    /// What.
    pub step: RowStep,
}

/// What a row can do.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum RowStep {
    /// A piece of the prompt was read.
    Read {
        /// Tokens read so far.
        read: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Those of the tokens after the ones that this piece read, if asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The context at a place that was asked for. Lazy: [`State::eval`](crate::State::eval) it
    /// before keeping it.
    Snapshot {
        /// Tokens of the prompt before it.
        read: usize,
        /// The place.
        context: Context,
    },
    /// A token was generated.
    Token {
        /// Text that this token completes.
        text: String,
        /// Its id.
        id: u32,
        /// Its log-probabilities, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end of this continuation.
    End {
        /// Text held back until now.
        text: String,
        /// Why it ended.
        reason: Reason,
        /// The place after the last token. Lazy, as a snapshot's.
        context: Context,
    },
}

/// Generations that share their forward passes.
pub struct Batch<'m> {
    model: &'m Model,
    tokenizer: Option<&'m Tokenizer>,
    piece: usize,
    next: u64,
    reading: Reading,
    decoding: Decoding,
    decoded_last: bool,
}

impl<'m> Batch<'m> {
    /// An empty batch that reads prompts in pieces of `piece` tokens.
    ///
    /// # Errors
    /// [`Error::Option`] for a piece of no tokens, [`Error::Mlx`] without a device.
    pub fn new(llamba: &'m Llamba, piece: usize) -> Result<Self> {
        if piece == 0 || piece > 1 << 20 {
            let (value, expected) = (piece.to_string(), "1 to 1048576 tokens".to_owned());
            return Err(Error::Option { option: "prefill", value, expected });
        }
        let gpu = matches!(Device::try_default()?.get_type()?, DeviceType::Gpu);
        Ok(Self {
            model: llamba.model(),
            tokenizer: llamba.tokenizer(),
            piece,
            next: 0,
            reading: Reading::default(),
            decoding: Decoding::new(gpu),
            decoded_last: false,
        })
    }

    /// Asks for tokens before the ones before them are handed out, or not, whatever the device.
    pub fn pipelined(&mut self, pipelined: bool) {
        self.decoding.pipelined = pipelined;
    }

    /// Adds a row; it begins with the next steps.
    ///
    /// # Errors
    /// As [`Llamba::stream`]; the batch goes on without the row.
    pub fn add(&mut self, request: RowRequest) -> Result<RowId> {
        let id = RowId(self.next);
        self.reading.add(self.model, self.tokenizer, id, request)?;
        self.next += 1;
        Ok(id)
    }

    /// Rows that read their prompts.
    pub fn reading(&self) -> usize {
        self.reading.len()
    }

    /// Continuations that decode.
    pub fn decoding(&self) -> usize {
        self.decoding.len()
    }

    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.reading.len() + self.decoding.len() == 0
    }

    /// One forward: a token for every row that decodes, or a piece of prompts; they take turns
    /// while there are both. Rows whose [`Cancel`](crate::Cancel) was used end first.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the computation fails. The batch is of no use any more: its rows are
    /// lost.
    pub fn step(&mut self) -> Result<Vec<RowEvent>> {
        let mut events = self.reading.cancelled()?;
        events.extend(self.decoding.cancelled()?);
        let read = self.reading.len() > 0 && (self.decoding.len() == 0 || self.decoded_last);
        self.decoded_last = !read;
        if read {
            let (more, rows) = self.reading.step(self.model, self.piece)?;
            events.extend(more);
            self.decoding.join(rows);
        } else if self.decoding.len() > 0 {
            events.extend(self.decoding.step(self.model)?);
        }
        Ok(events)
    }
}
