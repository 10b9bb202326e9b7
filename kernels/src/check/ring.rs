//! Attention to a ring of texts, in float64.

use mlx_rs::{Array, Dtype};

use super::{Failure, Values, array};
use crate::{Backend, RingAttention};

/// Sizes of a ring, and where its texts are.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Query heads.
    pub h: usize,
    /// Heads of keys and values.
    pub g: usize,
    /// Width of a head.
    pub k: usize,
    /// Places for tokens.
    pub room: usize,
    /// The number of tokens read.
    pub read: usize,
    /// The newest token's position in the text of each row.
    pub positions: Vec<usize>,
    /// The dtype of queries, keys and values.
    pub dtype: Dtype,
}

/// The numbers of a ring, row-major.
pub struct RingData {
    /// (b, h, k)
    pub queries: Vec<f64>,
    /// (b, g, room, k)
    pub keys: Vec<f64>,
    /// (b, g, room, k)
    pub values: Vec<f64>,
}

/// Returns texts of one token, in part of the room and in all of it, before and after the ring has turned.
pub fn rings() -> Vec<Ring> {
    let ring = |h, g, k, room, read, positions: &[usize]| Ring {
        h,
        g,
        k,
        room,
        read,
        positions: positions.to_vec(),
        dtype: Dtype::Float32,
    };
    vec![
        ring(2, 1, 16, 7, 0, &[0, 0]),
        ring(6, 2, 32, 40, 23, &[23, 0, 11]),
        ring(9, 3, 64, 70, 341, &[69, 3, 16, 15, 68]),
        ring(8, 1, 128, 33, 32, &[32, 17]),
        ring(3, 3, 256, 19, 100, &[18]),
    ]
}

impl Ring {
    /// The factor of the scores.
    pub const SCALE: f32 = 0.31;

    /// Returns its numbers.
    pub fn data(&self) -> RingData {
        let (b, places) = (self.positions.len(), self.g * self.room * self.k);
        let mut of = Values(self.k as u64);
        RingData {
            queries: of.take(b * self.h * self.k, 2.0, self.dtype),
            keys: of.take(b * places, 1.0, self.dtype),
            values: of.take(b * places, 1.0, self.dtype),
        }
    }

    /// Returns (b, h, k): softmax(scale q k^T) v over the tokens of each row's text.
    pub fn expected(&self, data: &RingData) -> Vec<f64> {
        let &Self { h, g, k, room, read, .. } = self;
        let mut all = Vec::new();
        for (row, position) in self.positions.iter().enumerate() {
            for head in 0..h {
                let query = &data.queries[(row * h + head) * k..][..k];
                let token = |age: usize| {
                    let place = (read + room - age) % room;
                    ((row * g + head / (h / g)) * room + place) * k
                };
                let score = |age| {
                    let key = &data.keys[token(age)..][..k];
                    f64::from(Self::SCALE) * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                };
                let scores: Vec<f64> = (0..=*position).map(score).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights = scores.iter().map(|score| (score - top).exp());
                let total: f64 = weights.clone().sum();
                let mut y = vec![0.0; k];
                for (age, weight) in weights.enumerate() {
                    for (y, value) in y.iter_mut().zip(&data.values[token(age)..]) {
                        *y += weight / total * value;
                    }
                }
                all.extend(y);
            }
        }
        all
    }

    /// Returns queries, keys, values and positions as arrays.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn arrays(&self, data: &RingData) -> Result<[Array; 4], Failure> {
        let (b, &Self { h, g, k, room, dtype, .. }) = (self.positions.len(), self);
        let positions: Vec<i32> = self.positions.iter().map(|&p| p as i32).collect();
        Ok([
            array(dtype, &[b, h, k], &data.queries)?,
            array(dtype, &[b, g, room, k], &data.keys)?,
            array(dtype, &[b, g, room, k], &data.values)?,
            Array::from_slice(&positions, &[b as i32]),
        ])
    }

    /// Returns the result of a back end. Lazy.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn run(&self, backend: Backend, arrays: &[Array; 4]) -> Result<Array, Failure> {
        let [queries, keys, values, positions] = arrays;
        let (read, scale) = (self.read, Self::SCALE);
        let ring = RingAttention { queries, keys, values, positions, read, scale, window: None };
        Ok(backend.ring_attention(&ring)?)
    }
}
