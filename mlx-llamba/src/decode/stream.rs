//! A single generation as an iterator of events.

use std::time::{Duration, Instant};

use mlx_llamba_kernels::mlx::on_device;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{DeviceType, memory};

use super::decoding::Decoding;
use super::generation::{Completion, Event, Generation, Reason, Stats};
use super::pending::Pending;
use super::prefill::{Prefill, prefill_of};
use super::request::RequestId;
use super::row::{Row, Token};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::language::LanguageModel;
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::tokens;

/// A generation under way: an iterator of [`Event`]s.
///
/// Dropping it ends the generation; [`into_context`](Self::into_context) returns the context it
/// has reached.
pub struct Stream<'m, M: LanguageModel = Model> {
    model: &'m M,
    /// One row.
    decoding: Decoding<M::State>,
    phase: Phase<M::State>,
    stats: Stats,
    /// The most memory that the process held before.
    peak_before: usize,
    started: Instant,
    first: Option<Duration>,
}

enum Phase<S> {
    Prefill(Prefill<S>),
    Decode,
    /// The last token was handed out.
    Ending(Reason),
    /// The last event was handed out.
    Ended,
}

impl<'m, M: LanguageModel> Stream<'m, M> {
    /// Continues from `context` with the ids of `prompt`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::Argument`].
    pub fn new(
        model: &'m M,
        tokenizer: Option<&'m Tokenizer>,
        context: Context<M::State>,
        prompt: &[u32],
        options: &Generation,
    ) -> Result<Self> {
        let prefill = Prefill::new(model, context, prompt, options, Vec::new())?;
        let pipelined = match options.pipelined {
            Some(pipelined) => pipelined,
            None => matches!(model.device()?, DeviceType::Gpu),
        };
        let Prefill { ids, position, .. } = &prefill;
        let only = (RequestId::default(), 0);
        let row = || Row::new(model, tokenizer, position, ids, options, only);
        let row = on_device(model.device()?, row)?;
        let stats = Stats { prompt_tokens: ids.len(), seed: row.seed(), ..Stats::default() };
        let mut decoding = Decoding::new(pipelined);
        decoding.rows.push(row);
        Ok(Self {
            model,
            decoding,
            phase: Phase::Prefill(prefill),
            stats,
            peak_before: memory::peak_memory()?,
            started: Instant::now(),
            first: None,
        })
    }

    /// Returns the context after the last token handed out.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be computed.
    pub fn into_context(mut self) -> Result<Context<M::State>> {
        if let Phase::Prefill(prefill) = std::mem::replace(&mut self.phase, Phase::Ended) {
            self.defer(prefill);
        }
        let lost = || Exception::custom("the state was lost with the error before");
        let state = self.decoding.state.take().ok_or_else(lost)?;
        eval(M::arrays(&state))?;
        Ok(self.row().context(state))
    }

    /// Runs to the end and collects everything.
    ///
    /// # Errors
    /// The first error of the stream.
    pub fn finish(mut self) -> Result<Completion<M::State>> {
        let (mut text, mut tokens, mut all_logprobs) = (String::new(), Vec::new(), Vec::new());
        loop {
            let event = self.next().unwrap_or(Err(Error::EmptyPrompt))?;
            text.push_str(event.text());
            match event {
                Event::Prefill { .. } => {}
                Event::Token { id, logprobs, .. } => {
                    tokens.push(id);
                    all_logprobs.extend(logprobs);
                }
                Event::End { reason, stats, .. } => {
                    let context = self.into_context()?;
                    let logprobs = all_logprobs;
                    return Ok(Completion { text, tokens, logprobs, reason, stats, context });
                }
            }
        }
    }

    fn row(&mut self) -> &mut Row {
        &mut self.decoding.rows[0]
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        let cancelled = self.row().is_cancelled();
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => Ok(None),
            Phase::Ending(reason) => self.end(reason).map(Some),
            Phase::Prefill(prefill) if cancelled => {
                self.defer(prefill);
                self.end(Reason::Cancelled).map(Some)
            }
            Phase::Prefill(prefill) => self.prefill(prefill).map(Some),
            // The first token is handed out in any case: without it, the context has no token to
            // continue from.
            Phase::Decode if cancelled && self.row().generated() > 0 => {
                self.end(Reason::Cancelled).map(Some)
            }
            Phase::Decode => self.decode().map(Some),
        }
    }

    /// Reads the next chunk of the prompt; after the last one, requests the first token.
    fn prefill(&mut self, mut prefill: Prefill<M::State>) -> Result<Event> {
        let total = prefill.total();
        if prefill.is_done() {
            self.defer(prefill);
            self.first = Some(self.started.elapsed());
            self.phase = Phase::Ending(Reason::Length);
            return Ok(Event::Prefill { read: total, total });
        }
        self.measure_memory()?;
        let chunk = match self.row().options.prefill {
            Some(chunk) => chunk,
            None => prefill_of(self.model.device()?),
        };
        let read = prefill.end(chunk);
        let tokens = tokens::array(&[prefill.chunk(read)]); // (1, l)
        let (hidden, state) = self.model.read(&tokens, prefill.state)?;
        prefill.state = state;
        prefill.advance(read);
        if read < total {
            eval(M::arrays(&prefill.state))?;
            self.phase = Phase::Prefill(prefill);
        } else {
            let last = hidden.try_index((.., -1, ..))?; // (1, d)
            let state = prefill.state.clone();
            self.defer(prefill);
            let pending = Pending::new(self.model, &mut self.decoding.rows, &last, state)?;
            self.decoding.ahead = Some(pending);
            self.phase = Phase::Decode;
        }
        Ok(Event::Prefill { read, total })
    }

    /// Ends the prefill where it is.
    fn defer(&mut self, prefill: Prefill<M::State>) {
        let Context { state, position } = prefill.into_context();
        self.row().position = position;
        self.decoding.state = Some(state);
    }

    fn decode(&mut self) -> Result<Event> {
        let lost = || Exception::custom("a step without a token");
        let token = match self.row().forced()? {
            Some(token) => token,
            None => self.decoding.step(self.model, true)?.pop().ok_or_else(lost)?,
        };
        self.first.get_or_insert_with(|| self.started.elapsed());
        let Token { id, text, logprobs, last } = token;
        if last.is_some() {
            self.decoding.ahead = None;
        }
        self.phase = last.map_or(Phase::Decode, Phase::Ending);
        Ok(Event::Token { text, id, logprobs })
    }

    /// MLX counts the peak of the whole process: it is of this stream only where it rose.
    fn measure_memory(&mut self) -> Result<()> {
        let (now, peak) = (memory::active_memory()?, memory::peak_memory()?);
        let seen = if peak > self.peak_before { peak } else { now };
        self.stats.peak_memory = self.stats.peak_memory.max(seen);
        Ok(())
    }

    /// The last event, with the text that was held back.
    fn end(&mut self, reason: Reason) -> Result<Event> {
        let text = self.row().flush(&reason);
        let total = self.started.elapsed();
        self.stats.generated_tokens = self.row().generated();
        self.stats.time(self.first.unwrap_or(total), total);
        self.measure_memory()?;
        Ok(Event::End { text, reason, stats: self.stats.clone() })
    }
}

impl<M: LanguageModel> Iterator for Stream<'_, M> {
    type Item = Result<Event>;

    /// After an error the stream has ended.
    fn next(&mut self) -> Option<Self::Item> {
        let device = self.model.device();
        device.and_then(|device| on_device(device, || self.advance())).transpose()
    }
}
