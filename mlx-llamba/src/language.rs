//! The interface of models to generation and evaluation.

use mlx_llamba_kernels::Backend;
use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, DeviceType};

use crate::error::Result;
use crate::tokens;

/// [`LanguageModel::read`] of one token of each of several texts, (b, 1).
pub type ReadOne<S> = Box<dyn Fn(&Array, S) -> Result<(Array, S)> + Send>;

/// A language model as a function `(tokens, state) -> (hidden states, state)` of one text.
///
/// [`Stream`](crate::Stream), [`Context`](crate::Context) and [`evaluate`](crate::evaluate) work with
/// any such model.
pub trait LanguageModel {
    /// The state after a text: a value that is cheap to clone.
    type State: Clone;

    /// The number of entries of the vocabulary. Logits may have more.
    fn vocab_size(&self) -> usize;

    /// The ids that end a text, if the model's configuration names them.
    fn eos(&self) -> &[u32];

    /// The number of tokens of the longest text that the model can read; `None` if unlimited.
    fn context_length(&self) -> Option<usize> {
        None
    }

    /// The kind of device on which the model computes. Default: the thread's current one.
    ///
    /// # Errors
    /// MLX's own.
    fn device(&self) -> Result<DeviceType> {
        Ok(current_device()?)
    }

    /// The kernels that draw tokens. Default: plain MLX operations.
    fn backend(&self) -> Backend {
        Backend::PLAIN
    }

    /// The state before the first token.
    ///
    /// # Errors
    /// MLX's own.
    fn start(&self) -> Result<Self::State>;

    /// Reads tokens (1, l), l >= 1. Returns the hidden states (1, l, d), the input of
    /// [`head`](Self::head), and the state after the last token. Takes the state by value, so that a
    /// model can reuse memory that nobody else holds. Lazy.
    ///
    /// # Errors
    /// MLX's own.
    fn read(&self, tokens: &Array, state: Self::State) -> Result<(Array, Self::State)>;

    /// Reads the tokens of each row of a batch, all of which have equally many unless the model says
    /// otherwise. Returns the hidden states (b, d) after each row's last token, and the state. Lazy.
    ///
    /// # Errors
    /// MLX's own.
    fn read_rows(&self, rows: &[&[u32]], state: Self::State) -> Result<(Array, Self::State)> {
        let (hidden, state) = self.read(&tokens::array(rows), state)?;
        Ok((hidden.try_index((.., -1, ..))?, state))
    }

    /// Returns [`read`](Self::read) of single tokens as a function that MLX records once for each number
    /// of texts and replays, where that is faster.
    ///
    /// # Errors
    /// MLX's own.
    fn recorded(&self) -> Result<Option<ReadOne<Self::State>>> {
        Ok(None)
    }

    /// Converts hidden states (.., d) to logits (.., at least vocab_size), float32. Lazy.
    ///
    /// # Errors
    /// MLX's own.
    fn head(&self, hidden: &Array) -> Result<Array>;

    /// The arrays of a state.
    fn arrays(state: &Self::State) -> Vec<&Array>;
}
