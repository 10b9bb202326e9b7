//! Tokens that have been requested of the model and not yet handed out.

use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::transforms::async_eval;
use mlx_rs::{Array, Dtype};

use super::generation::TokenLogprobs;
use super::row::{Row, Token};
#[cfg(not(feature = "constraints"))]
use super::unconstrained::Guide;
#[cfg(feature = "constraints")]
use crate::constraint::Guide;
use crate::error::Result;
use crate::host;
use crate::language::LanguageModel;
use crate::sample::{Logprobs, Sampler, Sampling};
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
    /// After the token.
    sampler: Sampler,
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
        let greedy = |row: &Row| {
            let options = &row.options;
            row.guide.is_none() && options.processors.is_empty() && is_argmax(&options.sampling)
        };
        // One reduction serves all the greedy rows.
        let top1 = match rows.iter().any(greedy) {
            true => Some(argmax(&logits, model.vocab_size())?), // (b,)
            false => None,
        };
        let alone = rows.len() == 1;
        let (mut tokens, mut sampled) = (Vec::new(), Vec::with_capacity(rows.len()));
        for (i, row) in (0..).zip(rows.iter_mut()) {
            let own = || -> Result<Array> {
                if alone { Ok(logits.clone()) } else { Ok(logits.try_index((i..i + 1, ..))?) }
            }; // (1, vocab)
            let token = match &top1 {
                Some(top1) if greedy(row) && alone => top1.clone(),
                Some(top1) if greedy(row) => top1.try_index(i..i + 1)?,
                _ => {
                    let logits = row.processed(own()?)?; // (1, at least vocab)
                    match row.guide.as_mut().and_then(Guide::mask) {
                        Some(mask) => row.sampler.sample(&mask.apply(&logits)?)?,
                        None => row.sampler.sample(&logits)?,
                    }
                }
            }; // (1,)
            let logprobs = match row.options.logprobs {
                Some(top) => Some(row.sampler.logprobs(&own()?, &token, top)?),
                None => None,
            };
            sampled.push(Sampled { logprobs, sampler: row.sampler.clone() });
            tokens.push(token);
        }
        let tokens = match (&tokens[..], top1) {
            ([token], _) => token.clone(),
            (_, Some(top1)) if rows.iter().all(greedy) => top1,
            (tokens, _) => concatenate(tokens, 0)?,
        }; // (b,)
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
            tokens.push(row.accept(id, logprobs, sampled.sampler));
        }
        Ok((tokens, self.state))
    }
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

/// The top-1 token of every row of `logits` (b, padded_vocab): (b,).
fn argmax(logits: &Array, vocab: usize) -> Result<Array> {
    let real = logits.try_index((.., ..vocab as i32))?.as_dtype(Dtype::Float32)?;
    Ok(argmax_axis(real, 1, false)?)
}

/// Returns true if the sampler would leave the logits as they are and take the largest.
fn is_argmax(sampling: &Sampling) -> bool {
    sampling.temperature < Sampling::GREEDY_BELOW
        && sampling.logit_bias.is_empty()
        && sampling.repetition_penalty == 1.0
        && sampling.frequency_penalty == 0.0
        && sampling.presence_penalty == 0.0
}
