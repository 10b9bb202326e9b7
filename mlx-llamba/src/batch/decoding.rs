//! The rows that generate: one forward gives each of them a token.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;

use super::RowEvent;
use super::ask::Asked;
use super::row::Row;
use crate::error::Result;
use crate::generation::Reason;
use crate::model::Model;
use crate::state::State;

/// Rows in the order of the batch's state.
pub(super) struct Decoding {
    /// Ask for tokens before the ones before them are handed out.
    pub(super) pipelined: bool,
    rows: Vec<Row>,
    /// After everything but each row's last token. `None` without rows.
    state: Option<State>,
    /// The tokens after the last ones handed out, if they were asked for already.
    ahead: Option<Asked>,
    /// Rows that join before the next forward, and their states.
    joining: Vec<(Row, State)>,
}

impl Decoding {
    pub(super) fn new(pipelined: bool) -> Self {
        Self { pipelined, rows: Vec::new(), state: None, ahead: None, joining: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.joining.len()
    }

    /// Takes rows whose first token was handed out.
    pub(super) fn join(&mut self, rows: Vec<(Row, State)>) {
        self.joining.extend(rows);
    }

    /// Ends the rows that were cancelled.
    pub(super) fn cancelled(&mut self) -> Result<Vec<RowEvent>> {
        let mut events = Vec::new();
        for i in (0..self.joining.len()).rev() {
            if self.joining[i].0.options.cancel.is_cancelled() {
                let (row, state) = self.joining.remove(i);
                events.push(row.end(Reason::Cancelled, state)?);
            }
        }
        let reasons =
            self.rows.iter().map(|r| r.options.cancel.is_cancelled().then_some(Reason::Cancelled));
        events.extend(self.leave(reasons.collect())?);
        Ok(events)
    }

    /// One token for every row.
    pub(super) fn step(&mut self, model: &Model) -> Result<Vec<RowEvent>> {
        let asked = match self.ahead.take() {
            Some(asked) => asked,
            None => {
                self.regroup()?;
                let Some(state) = &self.state else { return Ok(Vec::new()) };
                let last: Vec<u32> = self.rows.iter().map(Row::last).collect();
                let tokens = Array::from_slice(&last, &[last.len() as i32, 1]); // (b, 1)
                ask(model, &mut self.rows, &tokens, &state.clone())?
            }
        };
        // Rows that join, and rows that end for sure, are better served by a fresh start.
        let alone = self.joining.is_empty() && self.rows.iter().all(Row::goes_on);
        if self.pipelined && alone {
            let tokens = asked.tokens.reshape(&[-1, 1])?; // (b, 1)
            // Rows may have left since those tokens were asked for.
            if tokens.dim(0) as usize == self.rows.len() {
                self.ahead = Some(ask(model, &mut self.rows, &tokens, &asked.state)?);
            }
        }
        let (answers, state) = asked.answers()?;
        self.state = Some(state);
        let (mut events, mut reasons) = (Vec::new(), Vec::new());
        for (row, answer) in self.rows.iter_mut().zip(answers) {
            let (event, reason) = row.token(answer.id, answer.logprobs, answer.sampler);
            events.push(event);
            reasons.push(reason);
        }
        events.extend(self.leave(reasons)?);
        Ok(events)
    }

    /// Ends the rows that have a reason.
    fn leave(&mut self, reasons: Vec<Option<Reason>>) -> Result<Vec<RowEvent>> {
        let keep: Vec<usize> = (0..reasons.len()).filter(|&i| reasons[i].is_none()).collect();
        if keep.len() == self.rows.len() {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        let rows = std::mem::take(&mut self.rows);
        for (i, (row, reason)) in rows.into_iter().zip(reasons).enumerate() {
            match (reason, &self.state) {
                (Some(reason), Some(state)) => events.push(row.end(reason, state.row(i)?)?),
                _ => self.rows.push(row),
            }
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.keep(&keep)?;
        }
        // Lazy: rows that join before the next forward are copied in the same go.
        self.state = match &self.state {
            Some(state) if !keep.is_empty() => Some(state.regroup(&keep, &[])?),
            _ => None,
        };
        if keep.is_empty() {
            self.ahead = None;
        }
        Ok(events)
    }

    /// Lets the rows in that wait.
    fn regroup(&mut self) -> Result<()> {
        if self.joining.is_empty() {
            return Ok(());
        }
        let (rows, states): (Vec<Row>, Vec<State>) = self.joining.drain(..).unzip();
        self.state = Some(match &self.state {
            Some(state) => {
                let all: Vec<usize> = (0..self.rows.len()).collect();
                state.regroup(&all, &states)?
            }
            None => State::stack(&states)?,
        });
        self.rows.extend(rows);
        Ok(())
    }
}

/// Asks for the tokens after `tokens` (b, 1), which `state` has not read.
fn ask(model: &Model, rows: &mut [Row], tokens: &Array, state: &State) -> Result<Asked> {
    let (hidden, state) = model.hidden(tokens, None, state)?;
    let last = hidden.try_index((.., -1, ..))?; // (b, d)
    Asked::new(model, rows.iter_mut(), &last, state)
}
