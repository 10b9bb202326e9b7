//! What is timed: reading and generating from a state, by the library's forward pass.

use std::time::Instant;

use anyhow::{Result, bail};
use mlx_llamba::{Model, State};
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Dtype, memory};

use super::counts::short;
use super::report::{Row, Test};
use crate::interrupt;
use crate::progress::{Progress, Unit};

/// Tokens of each row that are read in one piece.
const PIECE: usize = 512;
/// Generated tokens that warm up.
const WARM_UP: usize = 2;

/// Measures one model, each row so many times.
pub(super) struct Bench<'a> {
    model: &'a Model,
    repetitions: usize,
}

impl<'a> Bench<'a> {
    pub(super) fn new(model: &'a Model, repetitions: usize) -> Self {
        Self { model, repetitions }
    }

    pub(super) fn model(&self) -> &'a Model {
        self.model
    }

    /// Reads one text on from depth `from` to depth `to`, once, with a progress bar. Returns the
    /// state there.
    pub(super) fn fill(&self, state: State, from: usize, to: usize) -> Result<(Row, State)> {
        let progress = Progress::new(format!("reading to depth {}", short(to)), Unit::Tokens);
        memory::clear_cache()?;
        memory::reset_peak_memory()?;
        let start = Instant::now();
        let (_, state) = read(self.model, state, from, to - from, |done| {
            progress.at(done, to - from);
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let row = Row::new(
            (Test::Fill, to - from),
            from,
            1,
            &[seconds],
            self.model.weight_bytes_per_step(),
        )?;
        Ok((row, state))
    }

    /// Reads `tokens` tokens a row from `start`.
    pub(super) fn read(&self, start: &State, depth: usize, tokens: usize) -> Result<Row> {
        let run = |tokens| Ok(read(self.model, start.clone(), depth, tokens, |_| ())?.1);
        // A piece warms up as well as the whole.
        self.row(Test::Read, start.batch(), depth, tokens, tokens.min(PIECE), run)
    }

    /// Generates `tokens` tokens a row from `start`.
    pub(super) fn generate(&self, start: &State, depth: usize, tokens: usize) -> Result<Row> {
        let first =
            Array::full::<u32>(&[start.batch() as i32, 1], Array::from_slice(&[1u32], &[]))?; // (b, 1)
        eval([&first])?;
        let run = |tokens| generate(self.model, first.clone(), start.clone(), tokens);
        self.row(Test::Generate, start.batch(), depth, tokens, tokens.min(WARM_UP), run)
    }

    fn row(
        &self,
        test: Test,
        batch: usize,
        depth: usize,
        tokens: usize,
        warm_up: usize,
        run: impl Fn(usize) -> Result<State>,
    ) -> Result<Row> {
        // Buffers that earlier rows left behind are not this row's memory.
        memory::clear_cache()?;
        run(warm_up)?;
        memory::reset_peak_memory()?;
        let mut seconds = Vec::with_capacity(self.repetitions);
        let mut after = None;
        for _ in 0..self.repetitions {
            drop(after.take());
            let start = Instant::now();
            after = Some(run(tokens)?);
            seconds.push(start.elapsed().as_secs_f64());
        }
        // While the states before and after are held: a text that goes on has one of them.
        Row::new((test, tokens), depth, batch, &seconds, self.model.weight_bytes_per_step())
    }
}

/// Reads `l` tokens a row in pieces, those from position `at` on, up to the next token (b, 1).
/// `progress` gets the tokens read so far.
fn read(
    model: &Model,
    mut state: State,
    at: usize,
    l: usize,
    progress: impl Fn(usize),
) -> Result<(Array, State)> {
    let vocab = model.config().vocab_size;
    let mut token = None;
    let mut done = 0;
    while done < l {
        stop_if_interrupted()?;
        let piece = done..l.min(done + PIECE);
        done = piece.end;
        let id = |b: usize, i: usize| (((at + i + 31 * b) * 7919) % vocab) as u32;
        let rows: Vec<Vec<u32>> =
            (0..state.batch()).map(|b| piece.clone().map(|i| id(b, i)).collect()).collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let (ids, _) = model.tokens(&rows)?; // (b, l)
        let (hidden, next) = model.hidden(&ids, None, &state)?;
        next.eval()?;
        token = Some(likeliest(model, &hidden)?);
        state = next;
        progress(done);
    }
    let Some(token) = token else { bail!("no tokens to read") };
    eval([&token])?;
    Ok((token, state))
}

/// Generates `n` tokens a row, each asked for before the one before it is waited for.
fn generate(model: &Model, mut token: Array, mut state: State, n: usize) -> Result<State> {
    for _ in 0..n {
        stop_if_interrupted()?;
        let (hidden, next) = model.hidden(&token, None, &state)?;
        let following = likeliest(model, &hidden)?;
        async_eval([&following])?;
        eval([&token])?;
        (token, state) = (following, next);
    }
    eval([&token])?;
    state.eval()?;
    Ok(state)
}

/// The likeliest token after the last hidden state: (b, 1).
fn likeliest(model: &Model, hidden: &Array) -> Result<Array> {
    let last = hidden.try_index((.., -1, ..))?; // (b, d)
    Ok(argmax_axis(model.head(&last)?, -1, true)?)
}

fn stop_if_interrupted() -> Result<()> {
    if interrupt::happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// Refuses what takes more memory than there is, by the least that reading up to `longest` tokens
/// a row takes: weights, states before and after, and the widest activations of one piece.
pub(super) fn check_memory(model: &Model, batch: usize, longest: usize) -> Result<()> {
    let config = model.config();
    let bytes = if model.dtype() == Dtype::Float32 { 4 } else { 2 };
    let widest = config.dims().in_proj_dim().max(2 * config.mlp.intermediate_size);
    let piece = longest.clamp(1, PIECE) * widest * bytes + 4 * config.padded_vocab();
    let each = 2 * config.state_bytes(bytes) + piece;
    let needed = batch.saturating_mul(each).saturating_add(model.weight_bytes());
    let limit = memory::memory_limit()?;
    if needed > limit {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        bail!(
            "a batch of {batch} needs at least {:.1} GiB, and MLX may use {:.1} GiB here",
            gib(needed),
            gib(limit)
        );
    }
    Ok(())
}
