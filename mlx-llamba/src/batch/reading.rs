//! The rows that read their prompts, a piece at a time.

use std::collections::VecDeque;

use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;

use super::ask::{Asked, table};
use super::row::Row;
use super::{RowEvent, RowId, RowRequest, RowStep};
use crate::error::Result;
use crate::generation::{Reason, TokenLogprobs};
use crate::model::Model;
use crate::state::State;
use crate::tokenizer::Tokenizer;

/// Positions whose logits are held at once for the prompt's log-probabilities: a vocabulary is
/// large.
const POSITIONS: usize = 32;

/// Prompts in the order of their turns.
#[derive(Default)]
pub(super) struct Reading {
    prompts: VecDeque<Prompt>,
}

/// What happened, and the rows that go on to decode.
type Started = (Vec<RowEvent>, Vec<(Row, State)>);

/// A prompt, read up to `at`.
struct Prompt {
    /// One a continuation; the first has the context.
    rows: Vec<Row>,
    ids: Vec<u32>,
    at: usize,
    logprobs: bool,
    snapshots: Vec<usize>,
}

impl Prompt {
    /// Tokens to be read before the first one is generated.
    fn limit(&self) -> usize {
        match self.rows.first() {
            Some(row) if row.options.max_tokens > 0 => self.ids.len(),
            _ => self.ids.len() - 1,
        }
    }

    /// Where a piece of at most `piece` tokens ends.
    fn end(&self, piece: usize) -> usize {
        let end = self.limit().min(self.at + piece);
        self.snapshots.iter().map(|&s| s - 1).filter(|&cut| cut > self.at).fold(end, usize::min)
    }

    /// Ends all continuations without having read everything.
    fn cut(mut self, reason: &Reason) -> Result<Vec<RowEvent>> {
        let state = self.rows.first().map(|row| row.context.clone());
        let mut events = Vec::new();
        for mut row in self.rows.drain(..) {
            if let Some(first) = &state {
                row.context = first.clone();
            }
            row.put_off(&self.ids[self.at..]);
            let state = row.context.state.clone();
            events.push(row.end(reason.clone(), state)?);
        }
        Ok(events)
    }
}

impl Reading {
    pub(super) fn len(&self) -> usize {
        self.prompts.len()
    }

    pub(super) fn add(
        &mut self,
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        id: RowId,
        request: RowRequest,
    ) -> Result<()> {
        request.options.validate(model.config().vocab_size)?;
        let ids = [&request.context.pending, request.prompt.as_slice()].concat();
        model.tokens(&[&ids])?;
        let rows = Row::all(model, tokenizer, id, &request, &ids)?;
        let logprobs = request.prompt_logprobs;
        // Tokens that were pending are the caller's own.
        let first = request.context.pending.len().max(1);
        let mut snapshots = request.snapshots;
        snapshots.retain(|&s| s > first && s <= ids.len());
        let prompt = Prompt { rows, ids, at: 0, logprobs, snapshots };
        self.prompts.push_back(prompt);
        Ok(())
    }

    /// Ends the prompts that were cancelled.
    pub(super) fn cancelled(&mut self) -> Result<Vec<RowEvent>> {
        let mut events = Vec::new();
        for prompt in std::mem::take(&mut self.prompts) {
            if prompt.rows.first().is_some_and(|row| row.options.cancel.is_cancelled()) {
                events.extend(prompt.cut(&Reason::Cancelled)?);
            } else {
                self.prompts.push_back(prompt);
            }
        }
        Ok(events)
    }

    /// Takes the first prompt, and those after it that fit into one forward of `piece` tokens,
    /// padding counted.
    fn choose(&mut self, piece: usize) -> Vec<Prompt> {
        let (mut chosen, mut longest) = (Vec::<Prompt>::new(), 1);
        for prompt in std::mem::take(&mut self.prompts) {
            let l = (prompt.end(piece) - prompt.at).max(longest);
            if chosen.is_empty() || (chosen.len() + 1) * l <= piece {
                longest = l;
                chosen.push(prompt);
            } else {
                self.prompts.push_back(prompt);
            }
        }
        chosen
    }

    /// Reads one piece. Gives the rows whose prompt is at its end, with their states; their first
    /// tokens are among the events.
    pub(super) fn step(&mut self, model: &Model, piece: usize) -> Result<Started> {
        let mut events = Vec::new();
        let mut chosen = Vec::new();
        for prompt in self.choose(piece) {
            if prompt.at == prompt.limit() {
                // One token, of which nothing is to be generated.
                events.extend(prompt.cut(&Reason::Length)?);
            } else {
                chosen.push(prompt);
            }
        }
        if chosen.is_empty() {
            return Ok((events, Vec::new()));
        }
        let ends: Vec<usize> = chosen.iter().map(|prompt| prompt.end(piece)).collect();
        let pieces: Vec<&[u32]> =
            chosen.iter().zip(&ends).map(|(prompt, &end)| &prompt.ids[prompt.at..end]).collect();
        let (tokens, lengths) = model.tokens(&pieces)?; // (b, l)
        let states: Vec<State> =
            chosen.iter().map(|prompt| prompt.rows[0].context.state.clone()).collect();
        let before = if states.len() == 1 { states[0].clone() } else { State::stack(&states)? };
        let (hidden, after) = model.hidden(&tokens, lengths.as_ref(), &before)?; // (b, l, d)

        let (mut done, mut last) = (Vec::new(), Vec::new());
        for (i, (mut prompt, end)) in chosen.into_iter().zip(ends).enumerate() {
            let own = if states.len() == 1 { after.clone() } else { after.row(i)? };
            let l = end - prompt.at;
            let hidden = hidden.try_index((i as i32, ..l as i32, ..))?; // (l, d)
            let logprobs = if prompt.logprobs {
                prompt_logprobs(model, &prompt, &hidden)?
            } else {
                Vec::new()
            };
            let at = std::mem::replace(&mut prompt.at, end);
            let piece = &prompt.ids[at..end];
            prompt.rows[0].read(piece, own.clone());
            let (row, total) = (&prompt.rows[0], prompt.ids.len());
            events.push(row.event(RowStep::Read { read: end, total, logprobs }));
            if prompt.snapshots.contains(&(end + 1)) {
                let mut context = row.context.clone();
                context.note(&prompt.ids[end..=end]);
                context.pending = vec![prompt.ids[end]];
                events.push(row.event(RowStep::Snapshot { read: end + 1, context }));
            }
            if end < prompt.limit() {
                own.eval()?;
                self.prompts.push_back(prompt);
            } else if end < total {
                events.extend(prompt.cut(&Reason::Length)?);
            } else {
                last.push(hidden.try_index((l as i32 - 1..l as i32, ..))?); // (1, d)
                done.push(prompt);
            }
        }
        let (more, rows) = first_tokens(model, done, &last)?;
        events.extend(more);
        Ok((events, rows))
    }
}

/// The first token of every continuation of the prompts read, after the hidden states `last`,
/// each (1, d).
fn first_tokens(model: &Model, prompts: Vec<Prompt>, last: &[Array]) -> Result<Started> {
    let (mut rows, mut states, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    for (prompt, last) in prompts.into_iter().zip(last) {
        let context = prompt.rows[0].context.clone();
        for mut row in prompt.rows {
            states.push(context.state.clone());
            row.context = context.clone();
            row.context.state = State::from_layers(Vec::new());
            hidden.push(last);
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let hidden = concatenate(&hidden, 0)?; // (b, d)
    // Continuations of one prompt share its state: evaluated once, though asked for by each.
    for state in &states {
        state.eval()?;
    }
    let asked = Asked::new(model, rows.iter_mut(), &hidden, State::from_layers(Vec::new()))?;
    let (answers, _) = asked.answers()?;
    let (mut events, mut go_on) = (Vec::new(), Vec::new());
    for ((mut row, state), answer) in rows.into_iter().zip(states).zip(answers) {
        let (event, reason) = row.token(answer.id, answer.logprobs, answer.sampler);
        events.push(event);
        match reason {
            Some(reason) => events.push(row.end(reason, state)?),
            None => go_on.push((row, state)),
        }
    }
    Ok((events, go_on))
}

/// Log-probabilities of the tokens after those that `hidden` (l, d) has read.
fn prompt_logprobs(model: &Model, prompt: &Prompt, hidden: &Array) -> Result<Vec<TokenLogprobs>> {
    let l = hidden.dim(0) as usize;
    let targets = &prompt.ids[prompt.at + 1..prompt.ids.len().min(prompt.at + 1 + l)];
    let row = &prompt.rows[0];
    let top = row.options.logprobs.unwrap_or(0);
    let mut all = Vec::with_capacity(targets.len());
    for (i, targets) in targets.chunks(POSITIONS).enumerate() {
        let start = (i * POSITIONS) as i32;
        let piece = hidden.try_index((start..start + targets.len() as i32, ..))?; // (m, d)
        let chosen = Array::from_slice(targets, &[targets.len() as i32]); // (m,)
        all.extend(table(&row.sampler.logprobs(&model.head(&piece)?, &chosen, top)?)?);
    }
    Ok(all)
}
