//! Tokens that have been requested of the model and not yet handed out.

use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::async_eval;

use super::generation::TokenLogprobs;
use super::row::{Row, Token};
#[cfg(not(feature = "constraints"))]
use super::unconstrained::Guide;
#[cfg(feature = "constraints")]
use crate::constraint::Guide;
use crate::error::Result;
use crate::host;
use crate::language::LanguageModel;
use crate::sample::{Logprobs, Sampler};
use crate::state::State;

/// The next token of each of several rows, while it is computed.
pub(super) struct Pending<S> {
    /// The tokens (b,).
    pub(super) tokens: Array,
    /// The state before the tokens.
    pub(super) state: S,
    /// In the order of the tokens.
    rows: Vec<Sampled>,
}

struct Sampled {
    logprobs: Option<Logprobs>,
    /// The random generator's state after the token.
    reached: [u32; 2],
}

impl<S> Pending<S> {
    /// Requests the tokens that follow the hidden states `last` (b, d) of `rows`.
    pub(super) fn new<M: LanguageModel<State = S>>(
        model: &M,
        rows: &mut [Row],
        last: &Array,
        state: S,
    ) -> Result<Self> {
        let logits = model.head(last)?; // (b, vocab)
        if rows.iter().any(|row| row.guide.is_some()) {
            // The device computes while masks are waited for.
            async_eval([last].into_iter().chain(M::arrays(&state)))?;
        }
        let tokens = sample(rows, &logits)?; // (b,)
        let mut sampled = Vec::with_capacity(rows.len());
        for (i, row) in (0..).zip(rows.iter()) {
            let logprobs = match row.options.logprobs {
                Some(top) => {
                    let (own, token) =
                        (logits.try_index((i..i + 1, ..))?, tokens.try_index(i..i + 1)?);
                    Some(row.sampler.logprobs(&own, &token, top)?)
                }
                None => None,
            };
            sampled.push(Sampled { logprobs, reached: row.sampler.rng_state() });
        }
        let extra = sampled.iter().filter_map(|row| row.logprobs.as_ref());
        let extra = extra.flat_map(|l| [&l.chosen, &l.top_ids, &l.top]);
        async_eval([&tokens].into_iter().chain(M::arrays(&state)).chain(extra))?;
        Ok(Self { tokens, state, rows: sampled })
    }

    /// Waits for the tokens and hands them out to `rows`. Returns them with the state before them.
    pub(super) fn wait(self, rows: &mut [Row]) -> Result<(Vec<Token>, S)> {
        let ids = host::ids(&self.tokens)?;
        let mut tokens = Vec::with_capacity(ids.len());
        for ((row, sampled), id) in rows.iter_mut().zip(self.rows).zip(ids) {
            let logprobs = sampled.logprobs.as_ref().map(table).transpose()?;
            let logprobs = logprobs.and_then(|mut table| table.pop());
            tokens.push(row.accept(id, logprobs, sampled.reached));
        }
        Ok((tokens, self.state))
    }
}

/// Samples the next token of every row from its logits (b, at least vocab): (b,).
fn sample(rows: &mut [Row], logits: &Array) -> Result<Array> {
    let changed = changed(rows, logits)?;
    let mut samplers: Vec<&mut Sampler> = rows.iter_mut().map(|row| &mut row.sampler).collect();
    if changed.is_empty() {
        return Sampler::sample_each(&mut samplers, logits);
    }
    let (mut parts, mut end) = (Vec::new(), 0);
    for (i, own) in changed {
        if end < i {
            parts.push(samplers[0].real_entries(&logits.try_index((end..i, ..))?)?);
        }
        parts.push(own);
        end = i + 1;
    }
    if end < logits.dim(0) {
        parts.push(samplers[0].real_entries(&logits.try_index((end.., ..))?)?);
    }
    Sampler::sample_each(&mut samplers, &concatenate(&parts, 0)?)
}

/// Returns the rows whose logits a processor or a grammar changes, and their logits (1, vocab).
fn changed(rows: &mut [Row], logits: &Array) -> Result<Vec<(i32, Array)>> {
    let mut changed = Vec::new();
    for (i, row) in (0..).zip(rows.iter_mut()) {
        if row.guide.is_none() && row.options.processors.is_empty() {
            continue;
        }
        let own = row.processed(logits.try_index((i..i + 1, ..))?)?; // (1, at least vocab)
        let own = match row.guide.as_mut().and_then(Guide::mask) {
            Some(mask) => mask.apply(&own)?,
            None => row.sampler.real_entries(&own)?,
        };
        changed.push((i, own));
    }
    Ok(changed)
}

impl Pending<State> {
    /// Drops the rows that are not in `keep` (ascending).
    pub(super) fn keep(&mut self, keep: &[usize]) -> Result<()> {
        let places: Vec<i32> = keep.iter().map(|&i| i as i32).collect();
        self.tokens = self.tokens.try_index(&Array::from_slice(&places, &[places.len() as i32]))?;
        self.state = self.state.regroup(keep, &[])?;
        let mut place = 0..;
        self.rows.retain(|_| place.next().is_some_and(|i| keep.binary_search(&i).is_ok()));
        Ok(())
    }
}

/// The numbers of every row of `logprobs`.
pub(super) fn table(logprobs: &Logprobs) -> Result<Vec<TokenLogprobs>> {
    let (ids, values) = (host::ids(&logprobs.top_ids)?, host::floats(&logprobs.top)?);
    let top = logprobs.top.dim(1) as usize;
    let row = |(i, chosen): (usize, f32)| {
        let range = i * top..(i + 1) * top;
        let pairs = ids[range.clone()].iter().copied().zip(values[range].iter().copied());
        TokenLogprobs { chosen, top: pairs.collect() }
    };
    Ok(host::floats(&logprobs.chosen)?.into_iter().enumerate().map(row).collect())
}
