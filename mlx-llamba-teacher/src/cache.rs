//! The key/value cache: a Llama's state after a text.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp, take_axis};
use mlx_rs::ops::{concatenate, zeros_dtype};

/// Tokens by which room grows: a token is written into room that is there.
const STEP: usize = 256;

/// Keys and values of a batch of `b` texts, one pair a layer. A value, as a Llamba's state is one:
/// the forward pass returns a new one. It grows with the text, or is a [`ring`](Self::ring).
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<Pair>,
    read: usize,
    ring: Option<Ring>,
}

/// Texts that begin at different times: token `t` of the batch stands at place `t` modulo `room`, and
/// a row sees the places of its own text.
#[derive(Debug, Clone)]
struct Ring {
    room: usize,
    /// The number of tokens that the batch had read when each row's text began (b,).
    begins: Vec<i32>,
}

/// Keys and values of a layer, (b, g, room, k), turned to their positions.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    keys: Array,
    values: Array,
}

impl KvCache {
    /// An empty cache for `batch` texts that begin and end at different times and have at most
    /// `room` tokens each. It reads one token of each text at a time.
    #[must_use]
    pub fn ring(batch: usize, room: usize) -> Self {
        let ring = Ring { room: room.max(1), begins: vec![0; batch] };
        Self { ring: Some(ring), ..Self::default() }
    }

    /// Begins a new text in a row of a [`ring`](Self::ring) with the next token: what the row held
    /// is forgotten, at no cost. Does nothing to another cache.
    pub fn begin(&mut self, row: usize) {
        if let Some(begin) = self.ring.as_mut().and_then(|ring| ring.begins.get_mut(row)) {
            *begin = self.read as i32;
        }
    }

    /// The cache of some of its texts alone, in this order.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn rows(&self, rows: &[u32]) -> mlx_rs::error::Result<Self> {
        let places = Array::from_slice(rows, &[rows.len() as i32]);
        let part = |pair: &Pair| -> mlx_rs::error::Result<Pair> {
            let (keys, values) = (&pair.keys, &pair.values);
            Ok(Pair { keys: take_axis(keys, &places, 0)?, values: take_axis(values, &places, 0)? })
        };
        let ring = self.ring.as_ref().map(|ring| {
            let begin = |&row: &u32| ring.begins.get(row as usize).copied().unwrap_or(0);
            Ring { room: ring.room, begins: rows.iter().map(begin).collect() }
        });
        Ok(Self {
            layers: self.layers.iter().map(part).collect::<Result<_, _>>()?,
            read: self.read,
            ring,
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

    /// The cache after `l` more tokens, whose layers are `layers`.
    pub(crate) fn after(&self, l: usize, layers: Vec<Pair>) -> Self {
        Self { layers, read: self.read + l, ring: self.ring.clone() }
    }

    /// The place that the next token is written to, and the length of the room if it is fixed.
    fn place(&self) -> (usize, Option<usize>) {
        match &self.ring {
            None => (self.read, None),
            Some(ring) => (self.read % ring.room, Some(ring.room)),
        }
    }

    pub(crate) fn is_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// The most tokens that a text has after `l` more.
    pub(crate) fn longest(&self, l: usize) -> usize {
        self.ring.as_ref().map_or(self.read + l, |ring| ring.room.min(self.read + l))
    }

    /// The next token's position in each row's text (b,), i32, if rows differ.
    pub(crate) fn positions(&self) -> Option<Array> {
        let begins = &self.ring.as_ref()?.begins;
        let positions: Vec<i32> = begins.iter().map(|begin| self.read as i32 - begin).collect();
        Some(Array::from_slice(&positions, &[positions.len() as i32]))
    }
}

impl Pair {
    /// The layer's pair in `cache` with `keys` and `values` (b, g, l, k) written after what it has
    /// read, and all keys and values up to there (b, g, read + l, k); those of the whole room of a
    /// [`ring`](KvCache::ring).
    pub(crate) fn append(
        cache: &KvCache,
        layer: usize,
        keys: &Array,
        values: &Array,
    ) -> mlx_rs::error::Result<(Self, Array, Array)> {
        let old = cache.layers.get(layer);
        let (start, fixed) = cache.place();
        let write = |old: Option<&Array>, new: &Array| -> mlx_rs::error::Result<_> {
            let end = start + new.dim(2) as usize;
            let room = fixed.unwrap_or(end.next_multiple_of(STEP)) as i32;
            let have = old.map_or(0, |old| old.dim(2));
            let grown = |more: i32| -> mlx_rs::error::Result<Array> {
                zeros_dtype(&[new.dim(0), new.dim(1), more, new.dim(3)], new.dtype())
            };
            let mut all = match old {
                Some(old) if have >= room => old.clone(),
                Some(old) => concatenate(&[old, &grown(room - have)?], 2)?,
                None => grown(room)?,
            };
            let at = (.., .., start as i32..end as i32);
            all.try_index_mut(at, new)?; // (b, g, room, k)
            let seen = match fixed {
                None => all.try_index((.., .., ..end as i32))?, // (b, g, t, k)
                Some(_) => all.clone(),
            };
            Ok((all, seen))
        };
        let (keys, seen_keys) = write(old.map(|old| &old.keys), keys)?;
        let (values, seen_values) = write(old.map(|old| &old.values), values)?;
        Ok((Self { keys, values }, seen_keys, seen_values))
    }
}
