//! Requests whose prompts are being read, several of them in one forward pass where they fit.

use std::collections::VecDeque;

use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;

use super::generation::{Reason, TokenLogprobs};
use super::pending::{Pending, table};
use super::prefill::Prefill;
use super::request::{BatchEvent, BatchRequest, RequestId, Step};
use super::row::Row;
use crate::context::Context;
use crate::error::Result;
use crate::model::Model;
use crate::state::State;
use crate::tokenizer::Tokenizer;
use crate::tokens;

/// Positions whose logits exist at once for the prompt's log-probabilities: a vocabulary is large.
const POSITIONS: usize = 32;

/// Requests in the order of their turns.
#[derive(Default)]
pub(super) struct Queue {
    requests: VecDeque<Reading>,
}

/// A request whose prompt is being read.
struct Reading {
    prefill: Prefill<State>,
    /// The continuations.
    rows: Vec<Row>,
    /// Report log-probabilities of the prompt.
    logprobs: bool,
}

impl Reading {
    /// Ends all continuations at the position reached.
    fn end(self, reason: &Reason) -> Vec<BatchEvent> {
        let Context { state, position } = self.prefill.into_context();
        let end = |mut row: Row| {
            row.position.clone_from(&position);
            row.end(reason.clone(), state.clone())
        };
        self.rows.into_iter().map(end).collect()
    }

    /// The event of a step of the prompt.
    fn event(&self, step: Step) -> Option<BatchEvent> {
        self.rows.first().map(|row| row.event(step))
    }

    /// Log-probabilities of the tokens after those that `hidden` (l, d) has consumed, the last of
    /// which is the one before `prefill.read`.
    fn prompt_logprobs(&self, model: &Model, hidden: &Array) -> Result<Vec<TokenLogprobs>> {
        let Prefill { ids, read, .. } = &self.prefill;
        let first = read + 1 - hidden.dim(0) as usize;
        let targets = &ids[first..ids.len().min(read + 1)];
        let Some(row) = self.rows.first() else { return Ok(Vec::new()) };
        let top = row.options.logprobs.unwrap_or(0);
        let mut all = Vec::with_capacity(targets.len());
        for (i, targets) in targets.chunks(POSITIONS).enumerate() {
            let start = (i * POSITIONS) as i32;
            let chunk = hidden.try_index((start..start + targets.len() as i32, ..))?; // (m, d)
            let chosen = Array::from_slice(targets, &[targets.len() as i32]); // (m,)
            all.extend(table(&row.sampler.logprobs(&model.head(&chunk)?, &chosen, top)?)?);
        }
        Ok(all)
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn push(
        &mut self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        id: RequestId,
        request: BatchRequest,
    ) -> Result<()> {
        let BatchRequest { context, prompt, options, choices, prompt_logprobs, snapshots } =
            request;
        let prefill = Prefill::new(model, context, &prompt, &options, snapshots)?;
        let Prefill { ids, position, .. } = &prefill;
        let row = |choice| Row::new(model, tokenizer, position, ids, &options, (id, choice));
        let rows = (0..choices.max(1)).map(row).collect::<Result<_>>()?;
        self.requests.push_back(Reading { prefill, rows, logprobs: prompt_logprobs });
        Ok(())
    }

    /// Ends the requests that were cancelled.
    pub(super) fn end_cancelled(&mut self) -> Vec<BatchEvent> {
        let mut events = Vec::new();
        for reading in std::mem::take(&mut self.requests) {
            if reading.rows.first().is_some_and(Row::is_cancelled) {
                events.extend(reading.end(&Reason::Cancelled));
            } else {
                self.requests.push_back(reading);
            }
        }
        events
    }

    /// Takes the first request, and those after it that fit into one forward pass of `chunk`
    /// tokens, padding included.
    fn take(&mut self, chunk: usize) -> Vec<Reading> {
        let (mut taken, mut longest) = (Vec::<Reading>::new(), 1);
        for reading in std::mem::take(&mut self.requests) {
            let l = (reading.prefill.end(chunk) - reading.prefill.read).max(longest);
            if taken.is_empty() || (taken.len() + 1) * l <= chunk {
                longest = l;
                taken.push(reading);
            } else {
                self.requests.push_back(reading);
            }
        }
        taken
    }

    /// Reads a chunk and adds its events. Returns the rows that go on to decode, whose first tokens
    /// are among the events, with their states.
    pub(super) fn step(
        &mut self,
        model: &Model,
        chunk: usize,
        events: &mut Vec<BatchEvent>,
    ) -> Result<Vec<(Row, State)>> {
        let (done, mut taken): (Vec<_>, Vec<_>) =
            self.take(chunk).into_iter().partition(|reading| reading.prefill.is_done());
        for reading in done {
            // A prompt of one token, after which nothing is to be generated.
            events.extend(reading.end(&Reason::Length));
        }
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let ends: Vec<usize> = taken.iter().map(|reading| reading.prefill.end(chunk)).collect();
        let chunks: Vec<&[u32]> =
            taken.iter().zip(&ends).map(|(reading, &end)| reading.prefill.chunk(end)).collect();
        let (tokens, lengths) = (tokens::array(&chunks), tokens::lengths(&chunks)); // (b, l)
        let states: Vec<State> = taken.iter().map(|r| r.prefill.state.clone()).collect();
        let alone = states.len() == 1;
        let before = if alone { states[0].clone() } else { State::stack(&states)? };
        let (hidden, after) = model.hidden(&tokens, lengths.as_ref(), &before)?; // (b, l, d)

        let (mut last, mut started) = (Vec::new(), Vec::new());
        for (i, (mut reading, end)) in taken.drain(..).zip(ends).enumerate() {
            let l = (end - reading.prefill.read) as i32;
            let hidden = hidden.try_index((i as i32, ..l, ..))?; // (l, d)
            reading.prefill.advance(end);
            reading.prefill.state = if alone { after.clone() } else { after.row(i)? };
            let logprobs = match reading.logprobs {
                true => reading.prompt_logprobs(model, &hidden)?,
                false => Vec::new(),
            };
            let total = reading.prefill.total();
            events.extend(reading.event(Step::Prefill { read: end, total, logprobs }));
            if let Some(context) = reading.prefill.snapshot() {
                events.extend(reading.event(Step::Snapshot { read: end + 1, context }));
            }
            if !reading.prefill.is_done() {
                reading.prefill.state.eval()?;
                self.requests.push_back(reading);
            } else if end < total {
                events.extend(reading.end(&Reason::Length));
            } else {
                // Continuations of one prompt share its state.
                reading.prefill.state.eval()?;
                let last_hidden = hidden.try_index((l - 1..l, ..))?; // (1, d)
                for mut row in reading.rows {
                    row.position.clone_from(&reading.prefill.position);
                    last.push(last_hidden.clone());
                    started.push((row, reading.prefill.state.clone()));
                }
            }
        }
        first_tokens(model, started, &last, events)
    }
}

/// Samples the first token of every row after its hidden state in `last`, each (1, d). Returns the
/// rows that go on.
fn first_tokens(
    model: &Model,
    started: Vec<(Row, State)>,
    last: &[Array],
    events: &mut Vec<BatchEvent>,
) -> Result<Vec<(Row, State)>> {
    if started.is_empty() {
        return Ok(Vec::new());
    }
    let (mut rows, states): (Vec<Row>, Vec<State>) = started.into_iter().unzip();
    let last = concatenate(last, 0)?; // (b, d)
    let none = State::from_layers(Vec::new());
    let (tokens, _) = Pending::new(model, &mut rows, &last, none)?.wait(&mut rows)?;
    let mut going_on = Vec::new();
    for ((mut row, state), token) in rows.into_iter().zip(states).zip(tokens) {
        match row.hand_out(token, events)? {
            Some(reason) => events.push(row.end(reason, state)),
            None => going_on.push((row, state)),
        }
    }
    Ok(going_on)
}
