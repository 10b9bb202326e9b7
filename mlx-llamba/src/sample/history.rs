//! Token counts for penalties.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, scatter_add_single};
use mlx_rs::ops::{arange, broadcast_to, concatenate, minimum, zeros};
use mlx_rs::{Array, Dtype};

/// Token counts of a growing text, as a lazy array.
#[derive(Debug, Clone)]
pub(crate) struct History {
    vocab: i32,
    /// The number of last tokens to count.
    window: Option<i32>,
    /// Without a window the counts (b, vocab), float32; with one the last tokens (b, m), u32.
    kept: Option<Array>,
}

impl History {
    pub(crate) fn new(vocab: usize, window: Option<usize>) -> Self {
        Self { vocab: vocab as i32, window: window.map(|w| w as i32), kept: None }
    }

    /// Adds `tokens` (b, l), u32. A history of one row is copied for b rows.
    pub(crate) fn push(&mut self, tokens: &Array) -> Result<()> {
        let b = tokens.dim(0);
        let kept = match &self.kept {
            Some(kept) if kept.dim(0) == 1 => Some(broadcast_to(kept, &[b, kept.dim(1)])?),
            kept => kept.clone(),
        };
        self.kept = Some(match (self.window, kept) {
            (None, None) => self.count(&zeros::<f32>(&[b, self.vocab])?, tokens)?,
            (None, Some(counts)) => self.count(&counts, tokens)?,
            (Some(window), None) => last(tokens, window)?,
            (Some(window), Some(recent)) => last(&concatenate(&[&recent, tokens], 1)?, window)?,
        });
        Ok(())
    }

    /// The counts (b, vocab), float32; `None` before the first token.
    pub(crate) fn counts(&self) -> Result<Option<Array>> {
        let Some(kept) = &self.kept else {
            return Ok(None);
        };
        Ok(Some(match self.window {
            None => kept.clone(),
            Some(_) => self.count(&zeros::<f32>(&[kept.dim(0), self.vocab])?, kept)?,
        }))
    }

    /// Adds `tokens` (b, l) to `counts` (b, vocab). Ids outside the vocabulary are ignored.
    fn count(&self, counts: &Array, tokens: &Array) -> Result<Array> {
        let (b, l) = (tokens.dim(0), tokens.dim(1));
        let tokens = tokens.as_dtype(Dtype::Uint32)?;
        let vocab = Array::from_slice(&[self.vocab as u32], &[1]);
        let end = Array::from_slice(&[self.vocab as u32 - 1], &[1]);
        let one = tokens.lt(&vocab)?.as_dtype(Dtype::Float32)?.reshape(&[b * l, 1])?; // (b*l, 1)
        let row = arange::<i32, u32>(0, b, 1)?.multiply(&vocab)?.reshape(&[b, 1])?; // (b, 1)
        let place = minimum(&tokens, &end)?.add(&row)?.reshape(&[b * l])?; // (b*l)
        let flat = counts.reshape(&[b * self.vocab])?; // (b*vocab)
        scatter_add_single(&flat, &place, &one, 0)?.reshape(&[b, self.vocab])
    }
}

/// The last `window` columns of `tokens` (b, l).
fn last(tokens: &Array, window: i32) -> Result<Array> {
    tokens.try_index((.., (tokens.dim(1) - window).max(0)..))
}
