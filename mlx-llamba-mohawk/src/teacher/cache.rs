//! What a Llama remembers of a text: the keys and values of all its tokens.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, zeros_dtype};

/// Tokens by which room grows: a token is written into room that is there.
const STEP: usize = 256;

/// Keys and values of a batch of `b` texts, one pair a layer. A value, as a Llamba's state is one:
/// the forward pass returns a new one. It grows with the text.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<Pair>,
    read: usize,
}

/// Keys and values of a layer, (b, g, room, k), turned to their positions.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    keys: Array,
    values: Array,
}

impl KvCache {
    pub(super) fn new(layers: Vec<Pair>, read: usize) -> Self {
        Self { layers, read }
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

    pub(super) fn layer(&self, i: usize) -> Option<&Pair> {
        self.layers.get(i)
    }
}

impl Pair {
    /// The pair with `keys` and `values` (b, g, l, k) written at `read`, and all keys and values
    /// up to there (b, g, read + l, k).
    pub(super) fn append(
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
