//! Rows that decode: each forward pass yields a token for every one of them.

use super::pending::Pending;
use super::row::{Row, Token};
use crate::error::Result;
use crate::language::LanguageModel;
use crate::state::State;

/// Rows in the order of the state's.
pub(super) struct Decoding<S> {
    /// Request the next tokens before the present ones are handed out.
    pub(super) pipelined: bool,
    pub(super) rows: Vec<Row>,
    /// After everything but the tokens pending in each row; `None` without rows, and after an error.
    pub(super) state: Option<S>,
    /// The tokens after those handed out, if they have been requested.
    pub(super) ahead: Option<Pending<S>>,
}

impl<S: Clone> Decoding<S> {
    pub(super) fn new(pipelined: bool) -> Self {
        Self { pipelined, rows: Vec::new(), state: None, ahead: None }
    }

    /// Samples a token for every row. With `ahead`, the next tokens may be requested first.
    pub(super) fn step<M>(&mut self, model: &M, ahead: bool) -> Result<Vec<Token>>
    where
        M: LanguageModel<State = S>,
    {
        let pending = match (self.ahead.take(), self.state.take()) {
            (Some(pending), state) => {
                self.state = state;
                pending
            }
            (None, Some(state)) => Pending::resume(model, &mut self.rows, state)?,
            (None, None) => return Ok(Vec::new()),
        };
        if ahead && self.pipelined && self.rows.iter().all(Row::can_run_ahead) {
            let tokens = pending.tokens.reshape(&[-1, 1])?; // (b, 1)
            let state = pending.state.clone();
            self.ahead = Some(Pending::after(model, &mut self.rows, &tokens, state)?);
        }
        let (tokens, state) = pending.wait(&mut self.rows)?;
        self.state = Some(state);
        Ok(tokens)
    }
}

impl Decoding<State> {
    /// Adds rows with their states.
    pub(super) fn join(&mut self, rows: Vec<(Row, State)>) -> Result<()> {
        let (rows, states): (Vec<Row>, Vec<State>) = rows.into_iter().unzip();
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

    /// Removes the rows for which `leaves` has a value. Returns them with it and their states.
    pub(super) fn leave<T>(&mut self, leaves: Vec<Option<T>>) -> Result<Vec<(Row, State, T)>> {
        let keep: Vec<usize> = (0..leaves.len()).filter(|&i| leaves[i].is_none()).collect();
        let Some(state) = self.state.take_if(|_| keep.len() < self.rows.len()) else {
            return Ok(Vec::new());
        };
        let mut gone = Vec::new();
        let rows = std::mem::take(&mut self.rows);
        for (i, (row, leaves)) in rows.into_iter().zip(leaves).enumerate() {
            match leaves {
                Some(value) => gone.push((row, state.row(i)?, value)),
                None => self.rows.push(row),
            }
        }
        if keep.is_empty() {
            self.ahead = None;
            return Ok(gone);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.keep(&keep)?;
        }
        // Lazy: rows that join before the next forward pass are copied together with these.
        self.state = Some(state.regroup(&keep, &[])?);
        Ok(gone)
    }
}
