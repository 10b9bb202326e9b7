//! Rows that decode: each forward pass yields a token for every one of them.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;

use super::pending::Pending;
use super::row::{Row, Token};
use crate::error::Result;
use crate::language::{LanguageModel, ReadOne};
use crate::state::State;
use crate::tokens;

/// Rows in the order of the state's.
pub(super) struct Decoding<S> {
    /// Request the next tokens before the present ones are handed out.
    pub(super) pipelined: bool,
    pub(super) rows: Vec<Row>,
    /// After everything but the tokens pending in each row; `None` without rows, and after an error.
    pub(super) state: Option<S>,
    /// The tokens after those handed out, if they have been requested.
    pub(super) ahead: Option<Pending<S>>,
    replay: Replay<S>,
}

/// The recorded steps of a model that has such.
struct Replay<S> {
    /// Made for the first step.
    read: Option<Option<ReadOne<S>>>,
    /// The numbers of rows that were recorded.
    sizes: Vec<usize>,
    /// The number of rows of the step before.
    last: usize,
}

/// The most numbers of rows that are recorded: each takes about a megabyte.
const SIZES: usize = 64;

impl<S> Replay<S> {
    /// Reads `tokens` (b, 1). Rows come and go: a number of them is recorded once two steps have it.
    fn read<M>(&mut self, model: &M, tokens: &Array, state: S) -> Result<(Array, S)>
    where
        M: LanguageModel<State = S>,
    {
        let size = tokens.dim(0) as usize;
        let stays = std::mem::replace(&mut self.last, size) == size;
        let known = self.sizes.contains(&size);
        if !known && (!stays || self.sizes.len() >= SIZES) {
            return model.read(tokens, state);
        }
        if self.read.is_none() {
            self.read = Some(model.recorded()?);
        }
        let Some(Some(read)) = &self.read else { return model.read(tokens, state) };
        if !known {
            self.sizes.push(size);
        }
        read(tokens, state)
    }
}

impl<S: Clone> Decoding<S> {
    pub(super) fn new(pipelined: bool) -> Self {
        Self {
            pipelined,
            rows: Vec::new(),
            state: None,
            ahead: None,
            replay: Replay { read: None, sizes: Vec::new(), last: 0 },
        }
    }

    /// Requests the tokens that follow `tokens` (b, 1), which `state` has not consumed.
    fn after<M>(&mut self, model: &M, tokens: &Array, state: S) -> Result<Pending<S>>
    where
        M: LanguageModel<State = S>,
    {
        let (hidden, state) = self.replay.read(model, tokens, state)?;
        let last = hidden.try_index((.., -1, ..))?; // (b, d)
        Pending::new(model, &mut self.rows, &last, state)
    }

    /// Requests the tokens that follow those that `state` has not consumed of each row.
    fn resume<M>(&mut self, model: &M, state: S) -> Result<Pending<S>>
    where
        M: LanguageModel<State = S>,
    {
        let unread: Vec<&[u32]> = self.rows.iter().map(Row::unread).collect();
        if unread.iter().all(|tokens| tokens.len() == 1) {
            let tokens = tokens::array(&unread); // (b, 1)
            return self.after(model, &tokens, state);
        }
        let (last, state) = model.read_rows(&unread, state)?; // (b, d)
        Pending::new(model, &mut self.rows, &last, state)
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
            (None, Some(state)) => self.resume(model, state)?,
            (None, None) => return Ok(Vec::new()),
        };
        // A row for which the present token is the last one leaves the next step afterwards.
        let rows = &self.rows;
        if ahead
            && self.pipelined
            && rows.iter().any(Row::goes_on)
            && rows.iter().all(Row::can_run_ahead)
        {
            let tokens = pending.tokens.reshape(&[-1, 1])?; // (b, 1)
            let state = pending.state.clone();
            self.ahead = Some(self.after(model, &tokens, state)?);
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
