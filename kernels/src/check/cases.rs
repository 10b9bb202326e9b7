//! Shapes and edge cases of a mixer.

use mlx_rs::Dtype;

use crate::{Activation, CHUNK, Dims};

/// One call of a mixer.
#[derive(Debug, Clone)]
pub struct Case {
    /// Sizes of the mixer.
    pub dims: Dims,
    /// Tokens, padding included.
    pub l: usize,
    /// Tokens of each sequence that count.
    pub lengths: Vec<usize>,
    /// Pass the lengths, though they may all be `l`.
    pub ragged: bool,
    /// Places (sequence, token) where documents start, if that is passed.
    pub starts: Option<Vec<(usize, usize)>>,
    /// The dtype of the activations.
    pub dtype: Dtype,
    /// After the convolution.
    pub activation: Activation,
    /// `A_log` is an array of its own.
    pub split_A_log: bool,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// The gate has a bias.
    pub z_bias: bool,
    /// Largest `|A_log|`.
    pub A_log: f64,
    /// Seed of the numbers.
    pub seed: u64,
}

impl Case {
    /// Returns `b` sequences of `l` tokens in float32, everything present.
    pub fn new([h, g, p, n, k]: [usize; 5], b: usize, l: usize) -> Self {
        Self {
            dims: Dims { h, g, p, n, k },
            l,
            lengths: vec![l; b],
            ragged: false,
            starts: None,
            dtype: Dtype::Float32,
            activation: Activation::Identity,
            split_A_log: false,
            conv_bias: true,
            z_bias: true,
            A_log: 3.0,
            seed: 11,
        }
    }

    /// Sets the dtype of the activations.
    #[must_use]
    pub fn dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// Sets the lengths of the sequences.
    #[must_use]
    pub fn lengths(self, lengths: &[usize]) -> Self {
        Self { lengths: lengths.to_vec(), ragged: true, ..self }
    }

    /// Sets the places, (sequence, token), where documents start.
    #[must_use]
    pub fn starts(self, starts: &[(usize, usize)]) -> Self {
        Self { starts: Some(starts.to_vec()), ..self }
    }

    /// Returns true where a document starts, (b, l).
    pub fn start_flags(&self) -> Option<Vec<bool>> {
        let starts = self.starts.as_ref()?;
        let places = (0..self.lengths.len()).flat_map(|row| (0..self.l).map(move |t| (row, t)));
        Some(places.map(|place| starts.contains(&place)).collect())
    }
}

/// Returns short calls: every size that kernels may treat in its own way.
pub fn steps() -> Vec<Case> {
    let silu = Activation::Silu;
    vec![
        // All sizes differ; arrays of fewer than eight elements; a head of one row.
        Case::new([6, 3, 5, 4, 4], 2, 1),
        Case::new([6, 3, 5, 4, 4], 2, 7),
        Case::new([1, 1, 2, 3, 2], 1, 2),
        Case::new([4, 2, 1, 9, 3], 3, 3),
        // n beside multiples of 32.
        Case::new([2, 1, 3, 20, 3], 2, 4),
        Case::new([3, 3, 4, 40, 5], 1, 6),
        Case::new([2, 1, 8, 128, 2], 1, 3),
        Case::new([1, 1, 3, 300, 4], 1, 16),
        // Groups of more rows than a threadgroup has: tiles that end inside heads, uneven tiles.
        Case::new([3, 1, 100, 7, 4], 1, 2),
        Case::new([1, 1, 257, 5, 4], 2, 1),
        // No convolution state, a long one.
        Case::new([4, 2, 3, 6, 1], 2, 5),
        Case { activation: silu, ..Case::new([4, 2, 3, 6, 6], 2, 5) },
        // Optional inputs.
        Case { conv_bias: false, ..Case::new([4, 2, 3, 6, 4], 1, 2) },
        Case { z_bias: false, split_A_log: true, ..Case::new([4, 2, 3, 6, 4], 2, 3) },
        // Decays of nothing and everything.
        Case { A_log: 60.0, ..Case::new([6, 3, 5, 4, 4], 2, 9) },
    ]
}

/// Returns long calls.
pub fn tokens() -> Vec<Case> {
    let silu = Activation::Silu;
    vec![
        // No multiples of 8; odd heads; more groups than one.
        Case::new([6, 3, 5, 4, 4], 2, 37),
        // Chunks: one, its borders, several with a rest.
        Case::new([4, 2, 8, 16, 4], 2, 17),
        Case::new([4, 2, 16, 8, 3], 1, 32),
        Case::new([2, 1, 8, 40, 4], 1, 33),
        Case { activation: silu, ..Case::new([3, 3, 24, 16, 6], 2, 101) },
        Case { split_A_log: true, z_bias: false, ..Case::new([4, 4, 16, 24, 2], 1, 64) },
        Case { conv_bias: false, ..Case::new([2, 1, 16, 24, 1], 2, 65) },
        // Published sizes of a head, and larger states.
        Case::new([2, 2, 64, 64, 4], 1, 70),
        Case::new([1, 1, 96, 64, 4], 1, 40),
        Case::new([2, 1, 128, 64, 4], 1, 35),
        Case::new([1, 1, 64, 128, 4], 1, 35),
        Case { A_log: 60.0, ..Case::new([4, 2, 8, 16, 4], 2, 70) },
    ]
}

/// Returns sequences with lengths of their own, with none and all of the tokens among them.
pub fn ragged() -> Vec<Case> {
    vec![
        Case::new([6, 3, 5, 4, 4], 0, 1).lengths(&[1, 0]),
        Case::new([6, 3, 5, 4, 4], 0, 9).lengths(&[4, 0, 9, 1]),
        Case::new([6, 3, 5, 4, 3], 0, 37).lengths(&[16, 0, 37, 1, 17]),
        Case::new([4, 2, 8, 16, 4], 0, 70).lengths(&[70, 0, 32, 2, 33, 64]),
        Case::new([2, 2, 16, 8, 1], 0, 40).lengths(&[8, 40]),
    ]
}

/// Returns sizes that CUDA's own kernels take: one token, many, and rows with lengths of their own.
pub fn published() -> Vec<Case> {
    let silu = Activation::Silu;
    vec![
        Case::new([8, 8, 64, 64, 4], 3, 1),
        Case::new([8, 4, 128, 64, 3], 40, 1),
        Case::new([32, 32, 96, 64, 4], 2, 1),
        Case::new([6, 3, 64, 128, 2], 2, 1),
        Case { activation: silu, ..Case::new([8, 2, 32, 16, 1], 2, 1) },
        Case { split_A_log: true, z_bias: false, ..Case::new([4, 2, 32, 32, 6], 5, 1) },
        Case { conv_bias: false, A_log: 60.0, ..Case::new([2, 1, 16, 64, 4], 2, 1) },
        Case::new([8, 2, 64, 64, 4], 2, 100),
        Case::new([8, 8, 128, 64, 4], 1, 333),
        Case::new([8, 4, 96, 64, 3], 2, 64),
        Case::new([8, 4, 64, 128, 4], 1, 129),
        Case { activation: silu, ..Case::new([8, 2, 16, 16, 1], 3, 65) },
        Case { split_A_log: true, z_bias: false, ..Case::new([6, 2, 32, 32, 6], 2, 200) },
        Case { conv_bias: false, A_log: 60.0, ..Case::new([8, 1, 32, 64, 4], 2, 130) },
        Case { A_log: 1e4, ..Case::new([8, 8, 64, 64, 4], 1, 70) },
        Case::new([8, 2, 64, 64, 4], 0, 150).lengths(&[150, 0, 65, 1, 64]),
    ]
}

/// Returns sequences of several documents: starts at the first token and the last, beside each other, at
/// the borders of chunks, and nowhere.
pub fn documents() -> Vec<Case> {
    let silu = Activation::Silu;
    vec![
        Case::new([6, 3, 5, 7, 4], 3, 1).starts(&[(1, 0)]),
        Case::new([6, 3, 5, 7, 4], 3, 9).starts(&[(0, 0), (0, 3), (0, 4), (2, 8)]),
        Case::new([4, 2, 3, 6, 6], 2, 5).starts(&[(0, 2), (1, 0), (1, 1), (1, 4)]),
        Case { activation: silu, ..Case::new([4, 2, 3, 6, 1], 2, 7).starts(&[(0, 3)]) },
        Case::new([6, 3, 5, 4, 4], 2, 2 * CHUNK + 9).starts(&[
            (0, CHUNK - 1),
            (0, CHUNK),
            (1, 1),
            (1, 2 * CHUNK),
            (1, 2 * CHUNK + 8),
        ]),
        Case::new([2, 1, 3, 5, 3], 2, 3 * CHUNK).starts(&[(0, CHUNK + 30)]),
        Case { A_log: 60.0, ..Case::new([4, 2, 8, 16, 4], 2, 70).starts(&[(0, 30), (1, 66)]) },
        // A start in the padding is none.
        Case::new([6, 3, 5, 4, 4], 0, 70).lengths(&[70, 0, 32, 2, 66]).starts(&[
            (0, 69),
            (1, 0),
            (2, 31),
            (2, 32),
            (3, 1),
            (4, 10),
            (4, 68),
        ]),
    ]
}
