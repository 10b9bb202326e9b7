//! Token counts for penalties.

use std::sync::atomic::{AtomicU64, Ordering};

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, scatter_add_single, take_axis};
use mlx_rs::ops::{arange, broadcast_to, concatenate, full, minimum, zeros};
use mlx_rs::{Array, Dtype};

/// Token counts of the growing texts of a batch, as a lazy array.
#[derive(Debug, Clone)]
pub(crate) struct History {
    vocab: i32,
    /// The number of last tokens to count.
    window: Option<i32>,
    kept: Option<Kept>,
}

/// The part of texts that counting needs: without a window the counts (b, vocab), float32; with one the
/// last tokens (b, m), u32.
#[derive(Debug, Clone)]
struct Kept {
    array: Array,
    /// Identifies the array among its clones.
    number: u64,
    /// The text's row of the array; `None` for all rows.
    row: Option<i32>,
}

impl From<Array> for Kept {
    fn from(array: Array) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { array, number: NEXT.fetch_add(1, Ordering::Relaxed), row: None }
    }
}

impl Kept {
    /// (b, m)
    fn rows(&self) -> Result<Array> {
        match self.row {
            None => Ok(self.array.clone()),
            Some(row) => self.array.try_index((row..row + 1, ..)),
        }
    }
}

impl History {
    pub(crate) fn new(vocab: usize, window: Option<usize>) -> Self {
        Self { vocab: vocab as i32, window: window.map(|w| w as i32), kept: None }
    }

    /// Adds `tokens` (b, l), u32. A history of one row is copied for b rows.
    pub(crate) fn push(&mut self, tokens: &Array) -> Result<()> {
        let b = tokens.dim(0);
        let kept = match self.kept.as_ref().map(Kept::rows).transpose()? {
            Some(kept) if kept.dim(0) == 1 => Some(broadcast_to(&kept, &[b, kept.dim(1)])?),
            kept => kept,
        };
        let kept = match (self.window, kept) {
            (None, None) => self.count(&zeros::<f32>(&[b, self.vocab])?, tokens)?,
            (None, Some(counts)) => self.count(&counts, tokens)?,
            (Some(window), None) => last(tokens, window)?,
            (Some(window), Some(recent)) => last(&concatenate(&[&recent, tokens], 1)?, window)?,
        };
        self.kept = Some(kept.into());
        Ok(())
    }

    /// The counts (b, vocab), float32; `None` before the first token.
    pub(crate) fn counts(&self) -> Result<Option<Array>> {
        let Some(kept) = self.kept.as_ref().map(Kept::rows).transpose()? else {
            return Ok(None);
        };
        Ok(Some(match self.window {
            None => kept,
            Some(_) => self.count(&zeros::<f32>(&[kept.dim(0), self.vocab])?, &kept)?,
        }))
    }

    /// The history of one text of a batch. Shares its array.
    pub(crate) fn row(&self, row: usize) -> Self {
        let kept = self.kept.as_ref().map(|kept| Kept { row: Some(row as i32), ..kept.clone() });
        Self { kept, ..self.clone() }
    }

    /// The history of a batch of the texts of `all`, histories of one text each with the same
    /// vocabulary and window. Texts that come from one batch, in its order, are not copied.
    pub(crate) fn stack(all: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = all.first() else { return Ok(None) };
        let whole = |kept: &Kept| kept.array.dim(0) as usize == all.len();
        let in_order = |(i, one): (usize, &&Self)| match (&one.kept, &first.kept) {
            (Some(one), Some(first)) => one.number == first.number && one.row == Some(i as i32),
            _ => false,
        };
        if let Some(kept) = first.kept.as_ref().filter(|kept| whole(kept))
            && all.iter().enumerate().all(in_order)
        {
            return Ok(Some(Self {
                kept: Some(Kept { row: None, ..kept.clone() }),
                ..(*first).clone()
            }));
        }
        let longest = all.iter().filter_map(|one| one.kept.as_ref()).map(|kept| kept.array.dim(1));
        let width = if first.window.is_none() { first.vocab } else { longest.max().unwrap_or(0) };
        let mut parts = Vec::new();
        for run in all.chunk_by(|a, b| a.shares(b)) {
            parts.push(first.part(run, width)?);
        }
        Ok(Some(Self { kept: Some(concatenate(&parts, 0)?.into()), ..(*first).clone() }))
    }

    fn shares(&self, other: &Self) -> bool {
        match (&self.kept, &other.kept) {
            (Some(a), Some(b)) => a.number == b.number && a.row.and(b.row).is_some(),
            (None, None) => true,
            _ => false,
        }
    }

    /// The kept rows of texts that share an array, (b, width), padded on the left with an id outside the
    /// vocabulary, which counts for nothing.
    fn part(&self, run: &[&Self], width: i32) -> Result<Array> {
        let b = run.len() as i32;
        let nothing = |m: i32| match self.window {
            None => zeros::<f32>(&[b, m]),
            Some(_) => full::<u32>(&[b, m], Array::from_slice(&[self.vocab as u32], &[1])),
        };
        let Some(kept) = run.first().and_then(|one| one.kept.as_ref()) else {
            return nothing(width);
        };
        let places: Vec<i32> = run.iter().filter_map(|one| one.kept.as_ref()?.row).collect();
        let rows = match places.is_empty() {
            true => kept.rows()?,
            false => take_axis(&kept.array, Array::from_slice(&places, &[b]), 0)?,
        }; // (b, m)
        match width - rows.dim(1) {
            0 => Ok(rows),
            more => concatenate(&[&nothing(more)?, &rows], 1),
        }
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
