//! What a model must do to be generated with and compared.

use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::{Array, DeviceType};

use crate::error::Result;

/// A language model as a function `(tokens, state) -> (hidden states, state)`, of one text.
///
/// [`Stream`](crate::Stream), [`Context`](crate::Context) and [`compare`](crate::compare) need no
/// more of a model than this.
pub trait LanguageModel {
    /// What the model remembers of a text: a value, cheap to clone.
    type State: Clone;

    /// Entries of the vocabulary that tokens may have. Logits may have more.
    fn vocab_size(&self) -> usize;

    /// Ids that end a text, where the model's configuration names them.
    fn eos(&self) -> &[u32];

    /// Tokens of the longest text that the model can read; `None` if there is no end.
    fn context_length(&self) -> Option<usize> {
        None
    }

    /// The kind of device on which the model computes. Default: the thread's current one.
    ///
    /// # Errors
    /// What MLX reports.
    fn device(&self) -> Result<DeviceType> {
        Ok(current_device()?)
    }

    /// The state before the first token.
    ///
    /// # Errors
    /// What MLX reports.
    fn start(&self) -> Result<Self::State>;

    /// Reads tokens (1, l), l >= 1: gives the hidden states (1, l, d) that [`head`](Self::head)
    /// takes, and the state after the last token. Takes the state away, so that a model may
    /// write into what nobody else holds. Lazy.
    ///
    /// # Errors
    /// What MLX reports.
    fn read(&self, tokens: &Array, state: Self::State) -> Result<(Array, Self::State)>;

    /// Hidden states (.., d) to logits (.., at least vocab_size), float32. Lazy.
    ///
    /// # Errors
    /// What MLX reports.
    fn head(&self, hidden: &Array) -> Result<Array>;

    /// The arrays that a state consists of.
    fn arrays(state: &Self::State) -> Vec<&Array>;
}
