//! The next token of several rows at once.

use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::transforms::async_eval;
use mlx_rs::{Array, Dtype};

use super::row::Row;
use crate::error::Result;
use crate::generation::TokenLogprobs;
use crate::host;
use crate::model::Model;
use crate::sample::{Logprobs, Sampler, Sampling};
use crate::state::State;

/// Tokens that are being computed, with what belongs to them.
pub(super) struct Asked {
    /// The tokens (b,).
    pub(super) tokens: Array,
    /// The state that they follow, of the batch.
    pub(super) state: State,
    rows: Vec<AskedRow>,
}

struct AskedRow {
    /// Its place in `tokens`.
    place: usize,
    logprobs: Option<Logprobs>,
    sampler: Sampler,
}

/// One row's token.
pub(super) struct Answer {
    pub(super) id: u32,
    pub(super) logprobs: Option<TokenLogprobs>,
    pub(super) sampler: Sampler,
}

impl Asked {
    /// Asks for the token of each of `rows` after the hidden states `last` (b, d).
    pub(super) fn new<'r>(
        model: &Model,
        rows: impl ExactSizeIterator<Item = &'r mut Row>,
        last: &Array,
        state: State,
    ) -> Result<Self> {
        let logits = model.head(last)?; // (b, vocab)
        let rows: Vec<&mut Row> = rows.collect();
        let all_likeliest = likeliest(&logits, model.config().vocab_size)?; // (b,)
        let alike = rows.iter().all(|row| takes_likeliest(&row.options.sampling));
        let (mut tokens, mut asked) = (Vec::new(), Vec::with_capacity(rows.len()));
        for (place, row) in rows.into_iter().enumerate() {
            let here = place as i32..place as i32 + 1;
            let plain = takes_likeliest(&row.options.sampling);
            let own = || -> Result<Array> { Ok(logits.try_index((here.clone(), ..))?) }; // (1, vocab)
            let token = if plain {
                all_likeliest.try_index(here.clone())?
            } else {
                row.sampler.sample(&own()?)?
            }; // (1,)
            let logprobs = match row.options.logprobs {
                Some(top) => Some(row.sampler.logprobs(&own()?, &token, top)?),
                None => None,
            };
            asked.push(AskedRow { place, logprobs, sampler: row.sampler.clone() });
            tokens.push(token);
        }
        let tokens = if alike { all_likeliest } else { concatenate(&tokens, 0)? }; // (b,)
        let extra = asked.iter().filter_map(|row| row.logprobs.as_ref());
        let extra = extra.flat_map(|l| [&l.chosen, &l.top_ids, &l.top]);
        async_eval([&tokens].into_iter().chain(state.arrays()).chain(extra))?;
        Ok(Self { tokens, state, rows: asked })
    }

    /// Waits for the tokens.
    pub(super) fn answers(self) -> Result<(Vec<Answer>, State)> {
        let ids = host::ids(&self.tokens)?;
        let answer = |row: AskedRow| -> Result<Answer> {
            let logprobs = row.logprobs.as_ref().map(|l| table(l)?.pop().ok_or_else(no_row));
            Ok(Answer { id: ids[row.place], logprobs: logprobs.transpose()?, sampler: row.sampler })
        };
        Ok((self.rows.into_iter().map(answer).collect::<Result<_>>()?, self.state))
    }

    /// Forgets the rows that are not in `keep` (ascending).
    pub(super) fn keep(&mut self, keep: &[usize]) -> Result<()> {
        self.state = self.state.regroup(keep, &[])?;
        let mut place = 0..;
        self.rows.retain(|_| place.next().is_some_and(|i| keep.binary_search(&i).is_ok()));
        Ok(())
    }
}

fn no_row() -> crate::Error {
    crate::Error::Mlx(mlx_rs::error::Exception::custom("log-probabilities of no row"))
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

/// The likeliest token of every row of `logits` (b, padded_vocab): (b,).
fn likeliest(logits: &Array, vocab: usize) -> Result<Array> {
    let real = logits.try_index((.., ..vocab as i32))?.as_dtype(Dtype::Float32)?;
    Ok(argmax_axis(real, 1, false)?)
}

/// True if the sampler would change nothing about the logits and take the largest.
fn takes_likeliest(sampling: &Sampling) -> bool {
    sampling.temperature < Sampling::GREEDY_BELOW
        && sampling.logit_bias.is_empty()
        && sampling.repetition_penalty == 1.0
        && sampling.frequency_penalty == 0.0
        && sampling.presence_penalty == 0.0
}
