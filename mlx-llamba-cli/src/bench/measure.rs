//! Timed runs: prefill and decode from a state, by a model's forward pass.

use std::time::Instant;

use anyhow::{Result, bail};
use mlx_llamba::decode::prefill_of;
use mlx_llamba_kernels::cpu;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, DeviceType, memory};

use super::counts::short;
use super::report::{Row, Test, Times};
use super::subject::Subject;
use crate::interrupt;
use crate::progress::{Progress, Unit};

/// The least tokens of a row that are read at once.
const PIECE: usize = 512;
/// The number of generated tokens in a warm-up.
const WARM_UP: usize = 2;

/// Measures one model, repeating each row.
pub(super) struct Bench<'a, M: Subject> {
    model: &'a M,
    repetitions: usize,
}

/// Rows that have read `depth` tokens each.
pub(super) struct Rows<S> {
    pub(super) state: S,
    pub(super) batch: usize,
    pub(super) depth: usize,
}

impl<'a, M: Subject> Bench<'a, M> {
    pub(super) fn new(model: &'a M, repetitions: usize) -> Self {
        Self { model, repetitions }
    }

    /// Returns one row that has read nothing.
    pub(super) fn start(&self) -> Result<Rows<M::State>> {
        Ok(Rows { state: self.model.start()?, batch: 1, depth: 0 })
    }

    /// Returns `batch` rows that each continue the single row of `one`.
    pub(super) fn spread(&self, one: &Rows<M::State>, batch: usize) -> Result<Rows<M::State>> {
        let state = self.model.spread(&one.state, batch)?;
        eval(M::arrays(&state))?;
        Ok(Rows { state, batch, depth: one.depth })
    }

    /// Reads one text up to depth `to`, once, with a progress bar.
    pub(super) fn fill(&self, rows: Rows<M::State>, to: usize) -> Result<(Row, Rows<M::State>)> {
        let progress = Progress::new(format!("reading to depth {}", short(to)), Unit::Tokens);
        let (depth, tokens) = (rows.depth, to - rows.depth);
        memory::clear_cache()?;
        memory::reset_peak_memory()?;
        let start = Instant::now();
        let (_, state) = read(self.model, rows, tokens, |done| progress.at(done, tokens))?;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = self.model.facts().weight_bytes_per_step;
        let times = Times { seconds: vec![seconds], memory: Vec::new() };
        let row = Row::new((Test::Fill, tokens), depth, 1, &times, bytes)?;
        Ok((row, Rows { state, batch: 1, depth: to }))
    }

    /// Reads `tokens` tokens per row, and returns the rows as they were.
    pub(super) fn read(
        &self,
        rows: Rows<M::State>,
        tokens: usize,
    ) -> Result<(Row, Rows<M::State>)> {
        // One chunk warms up as well as the whole prompt.
        let piece = piece(self.model, rows.batch)?;
        self.row(Test::Read, rows, tokens, tokens.min(piece), |rows, tokens| {
            Ok(read(self.model, rows, tokens, |_| ())?.1)
        })
    }

    /// Generates `tokens` tokens per row, and returns the rows as they were.
    pub(super) fn generate(
        &self,
        rows: Rows<M::State>,
        tokens: usize,
    ) -> Result<(Row, Rows<M::State>)> {
        let first = Array::full::<u32>(&[rows.batch as i32, 1], Array::from_slice(&[1u32], &[]))?; // (b, 1)
        eval([&first])?;
        self.row(Test::Generate, rows, tokens, tokens.min(WARM_UP), |rows, tokens| {
            generate(self.model, first.clone(), rows.state, tokens)
        })
    }

    fn row(
        &self,
        test: Test,
        rows: Rows<M::State>,
        tokens: usize,
        warm_up: usize,
        run: impl Fn(Rows<M::State>, usize) -> Result<M::State>,
    ) -> Result<(Row, Rows<M::State>)> {
        let Rows { state, batch, depth } = rows;
        let mark = M::mark(&state);
        let back = |after| Rows { state: M::back(after, &mark), batch, depth };
        // Buffers that earlier rows left behind do not count as this row's memory.
        memory::clear_cache()?;
        let mut state = run(Rows { state, batch, depth }, warm_up)?;
        memory::reset_peak_memory()?;
        let mut times = Times { seconds: Vec::new(), memory: Vec::new() };
        let on_cpu = matches!(self.model.device()?, DeviceType::Cpu);
        for _ in 0..self.repetitions {
            let rows = back(state);
            // Measured before each repetition: the speed of a shared machine varies.
            if on_cpu && test == Test::Generate {
                times.memory.push(cpu::read_bandwidth()?);
            }
            let start = Instant::now();
            state = run(rows, tokens)?;
            times.seconds.push(start.elapsed().as_secs_f64());
        }
        // Memory is read while the new state and the mark of the old one are alive.
        let bytes = self.model.facts().weight_bytes_per_step;
        let row = Row::new((test, tokens), depth, batch, &times, bytes)?;
        Ok((row, back(state)))
    }
}

/// Returns the number of tokens of each of `batch` rows that are read at once.
fn piece(model: &impl Subject, batch: usize) -> Result<usize> {
    Ok((prefill_of(model.device()?) / batch.max(1)).max(PIECE))
}

/// Reads `l` tokens per row in chunks. Returns the next token (b, 1). `progress` receives the number
/// of tokens read so far.
fn read<M: Subject>(
    model: &M,
    Rows { mut state, batch, depth }: Rows<M::State>,
    l: usize,
    progress: impl Fn(usize),
) -> Result<(Array, M::State)> {
    let (vocab, piece) = (model.vocab_size(), piece(model, batch)?);
    let mut token = None;
    let mut done = 0;
    while done < l {
        stop_if_interrupted()?;
        let piece = done..l.min(done + piece);
        done = piece.end;
        let id = |b: usize, i: usize| (((depth + i + 31 * b) * 7919) % vocab) as u32;
        let ids: Vec<u32> = (0..batch).flat_map(|b| piece.clone().map(move |i| id(b, i))).collect();
        let ids = Array::from_slice(&ids, &[batch as i32, piece.len() as i32]); // (b, l)
        let (hidden, next) = model.read(&ids, state)?;
        eval(M::arrays(&next))?;
        token = Some(top1(model, &hidden)?);
        state = next;
        progress(done);
    }
    let Some(token) = token else { bail!("no tokens to read") };
    eval([&token])?;
    Ok((token, state))
}

/// Generates `n` tokens per row. Each step is queued before the previous one is awaited.
fn generate<M: Subject>(
    model: &M,
    mut token: Array,
    mut state: M::State,
    n: usize,
) -> Result<M::State> {
    let recorded = model.recorded()?;
    for _ in 0..n {
        stop_if_interrupted()?;
        let (hidden, next) = match &recorded {
            Some(read) => read(&token, state)?,
            None => model.read(&token, state)?,
        };
        let following = top1(model, &hidden)?;
        async_eval([&following])?;
        eval([&token])?;
        (token, state) = (following, next);
    }
    eval([&token])?;
    eval(M::arrays(&state))?;
    Ok(state)
}

/// Returns the top-1 token after the last hidden state: (b, 1).
fn top1(model: &impl Subject, hidden: &Array) -> Result<Array> {
    let last = hidden.try_index((.., -1, ..))?; // (b, d)
    Ok(argmax_axis(model.head(&last)?, -1, true)?)
}

fn stop_if_interrupted() -> Result<()> {
    if interrupt::happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// Refuses a batch that needs more memory than there is. The estimate is a lower bound: weights, and
/// `batch` rows read up to their token `end` in chunks of at most `longest` tokens.
pub(super) fn check_memory(
    model: &impl Subject,
    batch: usize,
    longest: usize,
    end: usize,
) -> Result<()> {
    let each = model.bytes_of_a_row(longest.clamp(1, piece(model, batch)?), end);
    let needed = batch.saturating_mul(each).saturating_add(model.facts().weight_bytes);
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
