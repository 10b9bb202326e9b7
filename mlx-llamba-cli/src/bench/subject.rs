//! What both kinds of models give to be measured.

use anyhow::Result;
use mlx_llamba::{Backend, Dtype, LanguageModel, Model, State};
use mlx_llamba_teacher::{KvCache, Llama};

/// A model that reads and writes rows of a batch and can go back to where they began.
pub(super) trait Subject: LanguageModel {
    /// What [`back`](Self::back) needs of a state.
    type Mark;

    fn weight_bytes(&self) -> usize;

    /// Bytes of weights that generating reads each step.
    fn weight_bytes_per_step(&self) -> usize;

    /// Of the activations.
    fn dtype(&self) -> Dtype;

    fn backend(&self) -> Backend;

    /// The least bytes that a row holds beside the weights while it is read up to its token `end`,
    /// the last `piece` tokens of it at once.
    fn bytes_of_a_row(&self, piece: usize, end: usize) -> usize;

    /// `batch` rows that each go on from the one row of `state`.
    fn spread(&self, state: &Self::State, batch: usize) -> Result<Self::State>;

    fn mark(state: &Self::State) -> Self::Mark;

    /// The state that was marked, of one that was read on from it. No copy: a row is measured from
    /// a state that nobody else holds, as where a text goes on.
    fn back(after: Self::State, mark: &Self::Mark) -> Self::State;
}

impl Subject for Model {
    type Mark = State;

    fn weight_bytes(&self) -> usize {
        self.weight_bytes()
    }

    fn weight_bytes_per_step(&self) -> usize {
        self.weight_bytes_per_step()
    }

    fn dtype(&self) -> Dtype {
        self.dtype()
    }

    fn backend(&self) -> Backend {
        self.backend()
    }

    /// States before and after, and the widest activations.
    fn bytes_of_a_row(&self, piece: usize, _: usize) -> usize {
        let config = self.config();
        let bytes = bytes_of(self.dtype());
        let widest = config.dims().in_proj_dim().max(2 * config.mlp.intermediate_size);
        2 * config.state_bytes(bytes) + piece * widest * bytes + 4 * config.padded_vocab()
    }

    fn spread(&self, state: &State, batch: usize) -> Result<State> {
        Ok(State::stack(&vec![state.clone(); batch])?)
    }

    fn mark(state: &State) -> State {
        state.clone()
    }

    fn back(_: State, mark: &State) -> State {
        mark.clone()
    }
}

impl Subject for Llama {
    /// Tokens read: a cache forgets the last ones.
    type Mark = usize;

    fn weight_bytes(&self) -> usize {
        self.weight_bytes()
    }

    fn weight_bytes_per_step(&self) -> usize {
        self.weight_bytes_per_step()
    }

    fn dtype(&self) -> Dtype {
        self.dtype()
    }

    fn backend(&self) -> Backend {
        self.backend()
    }

    /// Keys and values, and the widest activations: the scores, or the MLP's.
    fn bytes_of_a_row(&self, piece: usize, end: usize) -> usize {
        let config = self.config();
        let bytes = bytes_of(self.dtype());
        let scores = config.num_attention_heads.saturating_mul(end);
        let widest = scores.max(2 * config.intermediate_size);
        let cache = config.cache_bytes_per_token(bytes).saturating_mul(end);
        cache
            .saturating_add(piece.saturating_mul(widest).saturating_mul(bytes))
            .saturating_add(4 * config.vocab_size)
    }

    fn spread(&self, state: &KvCache, batch: usize) -> Result<KvCache> {
        Ok(state.rows(&vec![0; batch])?)
    }

    fn mark(state: &KvCache) -> usize {
        state.read()
    }

    fn back(after: KvCache, &mark: &usize) -> KvCache {
        after.truncated(mark)
    }
}

/// Bytes of a float.
fn bytes_of(dtype: Dtype) -> usize {
    if dtype == Dtype::Float32 { 4 } else { 2 }
}
