//! Many generations at once: every forward pass serves all the rows that decode.
//!
//! Requests join and their rows leave between any two steps. Prompts are read in chunks that
//! alternate with decoding, so that a long prompt delays the other rows by one chunk at most. A
//! row's tokens are those of a [`Stream`](crate::Stream) with the same options: it has a sampler,
//! a detokenizer and stop strings of its own.

#[cfg(test)]
mod tests;

use mlx_llamba_kernels::mlx::on_device;
use mlx_rs::DeviceType;

use super::decoding::Decoding;
use super::generation::Reason;
use super::queue::Queue;
pub use super::request::{BatchEvent, BatchRequest, RequestId, Step};
use super::row::{Row, Token};
use crate::error::{Error, Result};
use crate::llamba::Llamba;
use crate::model::Model;
use crate::state::State;
use crate::tokenizer::Tokenizer;

/// Generations that share their forward passes.
pub struct Batch<'m> {
    model: &'m Model,
    tokenizer: Option<&'m Tokenizer>,
    chunk: usize,
    next: u64,
    queue: Queue,
    decoding: Decoding<State>,
    /// Rows that join before the next forward pass, and their states.
    joining: Vec<(Row, State)>,
    decoded_last: bool,
}

impl<'m> Batch<'m> {
    /// An empty batch that reads prompts in chunks of `chunk` tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] for a chunk of no tokens, [`Error::Mlx`] without a device.
    pub fn new(llamba: &'m Llamba, chunk: usize) -> Result<Self> {
        if chunk == 0 || chunk > 1 << 20 {
            let (value, expected) = (chunk.to_string(), "1 to 1048576 tokens".to_owned());
            return Err(Error::Argument { name: "prefill", value, expected });
        }
        let gpu = matches!(llamba.model().device(), DeviceType::Gpu);
        Ok(Self {
            model: llamba.model(),
            tokenizer: llamba.tokenizer(),
            chunk,
            next: 0,
            queue: Queue::default(),
            decoding: Decoding::new(gpu),
            joining: Vec::new(),
            decoded_last: false,
        })
    }

    /// Sets whether tokens are requested before those before them are handed out. Default: on GPUs
    /// only.
    pub fn pipelined(&mut self, pipelined: bool) {
        self.decoding.pipelined = pipelined;
    }

    /// Adds a request, which starts with the next steps.
    ///
    /// # Errors
    /// As [`Llamba::stream`]; the batch goes on without the request.
    pub fn add(&mut self, request: BatchRequest) -> Result<RequestId> {
        let id = RequestId(self.next);
        on_device(self.model.device(), || {
            self.queue.push(self.model, self.tokenizer, id, request)
        })?;
        self.next += 1;
        Ok(id)
    }

    /// The number of requests whose prompts are being read.
    pub fn reading(&self) -> usize {
        self.queue.len()
    }

    /// The number of continuations that decode.
    pub fn decoding(&self) -> usize {
        self.decoding.rows.len() + self.joining.len()
    }

    /// Returns true if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.reading() + self.decoding() == 0
    }

    /// Runs one forward pass: a token for every row that decodes, or a chunk of prompts; they take
    /// turns while there are both. Requests that were [cancelled](crate::Cancel) end first.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the computation fails. The batch cannot be used any more: its requests are
    /// lost.
    pub fn step(&mut self) -> Result<Vec<BatchEvent>> {
        on_device(self.model.device(), || self.run())
    }

    fn run(&mut self) -> Result<Vec<BatchEvent>> {
        let mut events = self.end_cancelled()?;
        let read = self.reading() > 0 && (self.decoding() == 0 || self.decoded_last);
        self.decoded_last = !read;
        if read {
            let rows = self.queue.step(self.model, self.chunk, &mut events)?;
            self.joining.extend(rows);
        } else if self.decoding() > 0 {
            events.extend(self.decode()?);
        }
        Ok(events)
    }

    fn end_cancelled(&mut self) -> Result<Vec<BatchEvent>> {
        let mut events = self.queue.end_cancelled();
        let cancelled = |row: &Row| row.is_cancelled().then_some(Reason::Cancelled);
        for (row, state) in self.joining.extract_if(.., |(row, _)| row.is_cancelled()) {
            events.push(row.end(Reason::Cancelled, state));
        }
        let reasons = self.decoding.rows.iter().map(cancelled).collect();
        events.extend(self.leave(reasons)?);
        Ok(events)
    }

    fn decode(&mut self) -> Result<Vec<BatchEvent>> {
        if self.decoding.ahead.is_none() && !self.joining.is_empty() {
            self.decoding.join(std::mem::take(&mut self.joining))?;
        }
        // Rows that wait join with the next step, which must not have been requested already.
        let tokens = self.decoding.step(self.model, self.joining.is_empty())?;
        let (mut events, mut reasons) = (Vec::new(), Vec::new());
        for (row, token) in self.decoding.rows.iter_mut().zip(tokens) {
            reasons.push(row.hand_out(token, &mut events)?);
        }
        events.extend(self.leave(reasons)?);
        Ok(events)
    }

    /// Ends the rows that have a reason to.
    fn leave(&mut self, reasons: Vec<Option<Reason>>) -> Result<Vec<BatchEvent>> {
        let gone = self.decoding.leave(reasons)?.into_iter();
        Ok(gone.map(|(row, state, reason)| row.end(reason, state)).collect())
    }
}

impl Row {
    /// The event of a step of this row.
    pub(super) fn event(&self, step: Step) -> BatchEvent {
        BatchEvent { request: self.id, choice: self.choice, step }
    }

    /// Adds the events of a token and of those that the grammar forces after it. Returns why the last
    /// of them is the last one, if it is.
    pub(super) fn hand_out(
        &mut self,
        token: Token,
        events: &mut Vec<BatchEvent>,
    ) -> Result<Option<Reason>> {
        let mut next = Some(token);
        while let Some(token) = next {
            let (step, last) = token.into_step();
            events.push(self.event(step));
            if last.is_some() {
                return Ok(last);
            }
            next = self.forced()?;
        }
        Ok(None)
    }

    /// The last event.
    pub(super) fn end(mut self, reason: Reason, state: State) -> BatchEvent {
        let text = self.flush(&reason);
        let context = self.context(state);
        let (request, choice) = (self.id, self.choice);
        BatchEvent { request, choice, step: Step::End { text, reason, context } }
    }
}

impl Token {
    /// The step, and why it is the last one, if it is.
    pub(super) fn into_step(self) -> (Step, Option<Reason>) {
        let Self { id, text, logprobs, last } = self;
        (Step::Token { text, id, logprobs }, last)
    }
}
