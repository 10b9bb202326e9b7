//! The measured models: a Llamba or a Llama.

use anyhow::Result;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::progress::OnProgress;
use mlx_llamba::{LanguageModel, Model, State};
use mlx_llamba_teacher::{KvCache, Llama};

/// Properties of a model that a report shows.
pub(super) struct Facts {
    pub(super) weight_bytes: usize,
    /// Bytes of weights read by each step of generation.
    pub(super) weight_bytes_per_step: usize,
    /// The dtype of the activations.
    pub(super) dtype: Dtype,
    pub(super) backend: Backend,
}

/// Reads the facts of a `Model` or a `Llama`, whose methods have the same names.
macro_rules! facts {
    ($model:expr) => {
        Facts {
            weight_bytes: $model.weight_bytes(),
            weight_bytes_per_step: $model.weight_bytes_per_step(),
            dtype: $model.dtype(),
            backend: $model.backend(),
        }
    };
}

/// A model that reads rows of a batch and can go back to an earlier state.
pub(super) trait Subject: LanguageModel {
    /// The data that [`back`](Self::back) needs to return to a state.
    type Mark;

    /// Returns sizes and dtype of the model, and its back end.
    fn facts(&self) -> Facts;

    /// Evaluates the weights of a random model.
    fn generate_weights(&self, on_progress: OnProgress<'_>) -> Result<()>;

    /// Returns a lower bound of the memory of a row, without weights, in bytes: while it is read up to
    /// its token `end`, the last `piece` tokens at once.
    fn bytes_of_a_row(&self, piece: usize, end: usize) -> usize;

    /// Returns `batch` rows that each continue the single row of `state`.
    fn spread(&self, state: &Self::State, batch: usize) -> Result<Self::State>;

    fn mark(state: &Self::State) -> Self::Mark;

    /// Returns to the marked state from one after it. No copy is made: a row is measured from a state
    /// that has no other owner, as in the middle of a text.
    fn back(after: Self::State, mark: &Self::Mark) -> Self::State;
}

impl Subject for Model {
    type Mark = State;

    fn facts(&self) -> Facts {
        facts!(self)
    }

    fn generate_weights(&self, on_progress: OnProgress<'_>) -> Result<()> {
        Ok(self.materialize(on_progress)?)
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
    /// The number of tokens read; a cache can drop the last ones.
    type Mark = usize;

    fn facts(&self) -> Facts {
        facts!(self)
    }

    fn generate_weights(&self, on_progress: OnProgress<'_>) -> Result<()> {
        Ok(self.materialize(on_progress)?)
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

/// Returns the size of a float in bytes.
fn bytes_of(dtype: Dtype) -> usize {
    if dtype == Dtype::Float32 { 4 } else { 2 }
}
