//! A hook into the choice of tokens.

use std::fmt;
use std::sync::Arc;

use mlx_rs::Array;

use crate::error::Result;

/// Changes logits before a token is chosen of them: bans, biases, or methods of sampling that this
/// library does not have.
///
/// Processors run one after the other, before [`Sampling`](crate::Sampling)'s own changes and before
/// a constraint, which nothing can allow to be broken. With them, no token is requested before the one
/// before it is known.
pub trait LogitsProcessor: Send + Sync {
    /// Returns the logits to choose from.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | history | ids of the prompt and of the tokens after it, behind the last ones before the prompt | |
    /// | logits | (1, vocab) | f32 |
    /// | result | (1, vocab) | a float |
    ///
    /// # Errors
    /// Any error ends the generation, and in a batch all of them.
    fn process(&self, history: &[u32], logits: &Array) -> Result<Array>;
}

impl<F> LogitsProcessor for F
where
    F: Fn(&[u32], &Array) -> Result<Array> + Send + Sync,
{
    fn process(&self, history: &[u32], logits: &Array) -> Result<Array> {
        self(history, logits)
    }
}

/// The processors of a generation; clones share them.
#[derive(Clone, Default)]
pub struct Processors(Vec<Arc<dyn LogitsProcessor>>);

impl Processors {
    /// Adds a processor, which runs after the others.
    pub fn push(&mut self, processor: impl LogitsProcessor + 'static) {
        self.0.push(Arc::new(processor));
    }

    /// Returns true if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs all of them.
    pub(crate) fn apply(&self, history: &[u32], logits: Array) -> Result<Array> {
        self.0.iter().try_fold(logits, |logits, processor| processor.process(history, &logits))
    }
}

impl fmt::Debug for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} processors", self.0.len())
    }
}
