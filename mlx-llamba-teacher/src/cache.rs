//! The key/value cache: a Llama's state after a text.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp, take_axis};
use mlx_rs::ops::{concatenate, zeros_dtype};

/// Tokens by which room grows: a token is written into room that is there.
const STEP: usize = 256;

/// Keys and values of a batch of `b` texts, one pair a layer. A value, as a Llamba's state is one:
/// the forward pass returns a new one. It grows with the text.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<Pair>,
    read: usize,
    /// The first position of each text (b,); `None`: all at 0.
    first: Option<Array>,
}

/// Keys and values of a layer, (b, g, room, k), turned to their positions.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    keys: Array,
    values: Array,
}

impl KvCache {
    pub(crate) fn new(layers: Vec<Pair>, read: usize, first: Option<Array>) -> Self {
        Self { layers, read, first }
    }

    /// An empty cache for texts of different lengths, one a row, that are padded on the left: so
    /// many tokens of each row come before its text, and are not seen by it.
    #[must_use]
    pub fn padded(padding: &[usize]) -> Self {
        if padding.iter().all(|&tokens| tokens == 0) {
            return Self::default();
        }
        let first: Vec<i32> = padding.iter().map(|&tokens| tokens as i32).collect();
        let first = Array::from_slice(&first, &[first.len() as i32]);
        Self { first: Some(first), ..Self::default() }
    }

    /// The cache of some of its texts alone, in this order.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn rows(&self, rows: &[u32]) -> mlx_rs::error::Result<Self> {
        let rows = Array::from_slice(rows, &[rows.len() as i32]);
        let part = |pair: &Pair| -> mlx_rs::error::Result<Pair> {
            let (keys, values) = (&pair.keys, &pair.values);
            Ok(Pair { keys: take_axis(keys, &rows, 0)?, values: take_axis(values, &rows, 0)? })
        };
        Ok(Self {
            layers: self.layers.iter().map(part).collect::<Result<_, _>>()?,
            read: self.read,
            first: self.first.as_ref().map(|first| take_axis(first, &rows, 0)).transpose()?,
        })
    }

    /// The cache after its first `read` tokens alone, as it was before it read the others. Its room
    /// stays: no copy.
    #[must_use]
    pub fn truncated(self, read: usize) -> Self {
        Self { read: read.min(self.read), ..self }
    }

    /// Tokens read.
    pub fn read(&self) -> usize {
        self.read
    }

    /// Bytes of all arrays.
    pub fn nbytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// All arrays, layer by layer.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|pair| [&pair.keys, &pair.values])
    }

    pub(crate) fn first(&self) -> Option<&Array> {
        self.first.as_ref()
    }

    pub(crate) fn layer(&self, i: usize) -> Option<&Pair> {
        self.layers.get(i)
    }
}

impl Pair {
    /// The pair with `keys` and `values` (b, g, l, k) written at `read`, and all keys and values
    /// up to there (b, g, read + l, k).
    pub(crate) fn append(
        old: Option<&Self>,
        read: usize,
        keys: &Array,
        values: &Array,
    ) -> mlx_rs::error::Result<(Self, Array, Array)> {
        let write = |old: Option<&Array>, new: &Array| -> mlx_rs::error::Result<_> {
            let end = read + new.dim(2) as usize;
            let room = end.next_multiple_of(STEP) as i32;
            let have = old.map_or(0, |old| old.dim(2));
            let grown = |more: i32| -> mlx_rs::error::Result<Array> {
                zeros_dtype(&[new.dim(0), new.dim(1), more, new.dim(3)], new.dtype())
            };
            let mut all = match old {
                Some(old) if have >= room => old.clone(),
                Some(old) => concatenate(&[old, &grown(room - have)?], 2)?,
                None => grown(room)?,
            };
            let at = (.., .., read as i32..end as i32);
            all.try_index_mut(at, new)?; // (b, g, room, k)
            let seen = all.try_index((.., .., ..end as i32))?; // (b, g, t, k)
            Ok((all, seen))
        };
        let (keys, seen_keys) = write(old.map(|old| &old.keys), keys)?;
        let (values, seen_values) = write(old.map(|old| &old.values), values)?;
        Ok((Self { keys, values }, seen_keys, seen_values))
    }
}
