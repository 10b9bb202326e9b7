//! The types of tensors in GGUF files, and their form in MLX.
//!
//! A quantized row is a sequence of blocks of 32 values. MLX's affine groups of 32 hold the same
//! numbers exactly: `value = scale * code + bias`.

use half::f16;
use mlx_llamba::kernels::{Mode, Quantized, Scheme};
use mlx_rs::Array;

use super::kquants::{self, BYTES, SUPER};

/// The number of values in a block.
const BLOCK: usize = 32;

/// The storage format of a tensor, under ggml's name.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    BF16,
    /// f16 scale, 32 codes of 4 bits: `scale * (code - 8)`.
    Q4_0,
    /// f16 scale, f16 minimum, 32 codes of 4 bits: `scale * code + minimum`.
    Q4_1,
    /// f16 scale, 32 signed bytes: `scale * code`.
    Q8_0,
    /// See [`kquants`].
    Q2_K,
    /// See [`kquants`].
    Q3_K,
    /// See [`kquants`].
    Q4_K,
    /// See [`kquants`].
    Q5_K,
    /// See [`kquants`].
    Q6_K,
}

/// The names of the types by their numbers in the file, for messages.
const NAMES: [&str; 31] = [
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K",
    "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16",
];

impl Kind {
    /// Returns the type of this number, if it is supported.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    pub(super) fn name_of(number: u32) -> String {
        let known = NAMES.get(number as usize).map(|&name| name.to_owned());
        known.unwrap_or_else(|| format!("type {number}"))
    }

    /// Returns the name in safetensors, for a float.
    pub(super) fn float(self) -> Option<safetensors::Dtype> {
        match self {
            Self::F32 => Some(safetensors::Dtype::F32),
            Self::F16 => Some(safetensors::Dtype::F16),
            Self::BF16 => Some(safetensors::Dtype::BF16),
            _ => None,
        }
    }

    /// The numbers of values and bytes of a block.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q2_K => (SUPER, BYTES[0]),
            Self::Q3_K => (SUPER, BYTES[1]),
            Self::Q4_K => (SUPER, BYTES[2]),
            Self::Q5_K => (SUPER, BYTES[3]),
            Self::Q6_K => (SUPER, BYTES[4]),
        }
    }

    /// The size of a tensor in bytes; `None` if a size is 0 or too large for MLX, or if rows do not
    /// consist of whole blocks.
    pub(super) fn bytes(self, shape: &[usize]) -> Option<usize> {
        let (values, bytes) = self.block();
        let (&columns, rows) = shape.split_last()?;
        if shape.iter().any(|&size| size == 0 || i32::try_from(size).is_err()) {
            return None;
        }
        let row = columns.is_multiple_of(values).then_some(columns / values * bytes)?;
        rows.iter().try_fold(row, |n, &size| n.checked_mul(size))
    }

    /// The bits of a code in MLX's words.
    fn bits(self) -> usize {
        if self == Self::Q8_0 { 8 } else { 4 }
    }

    /// Returns the float32 values of a matrix of K-quants, row `order(i)` of `bytes` as row `i`, and true if
    /// all are finite; `None` for other kinds.
    pub(super) fn values(
        self,
        bytes: &[u8],
        [rows, columns]: [usize; 2],
        order: impl Fn(usize) -> usize,
    ) -> Option<(Array, bool)> {
        let unpack = match self {
            Self::Q2_K => kquants::q2,
            Self::Q3_K => kquants::q3,
            Self::Q4_K => kquants::q4,
            Self::Q5_K => kquants::q5,
            Self::Q6_K => kquants::q6,
            _ => return None,
        };
        let size = self.block().1;
        let length = columns / SUPER * size;
        let mut values = Vec::with_capacity(rows * columns);
        for i in 0..rows {
            let row = &bytes[order(i) * length..][..length];
            row.chunks_exact(size).for_each(|block| unpack(block, &mut values));
        }
        let finite = values.iter().all(|value| value.is_finite());
        Some((Array::from_slice(&values, &[rows as i32, columns as i32]), finite))
    }

    /// Returns the quantized matrix (rows, columns) whose row `i` is row `order(i)` of `bytes`, which
    /// have the length [`bytes`](Self::bytes), and true if all its numbers are finite.
    pub(super) fn unpack(
        self,
        bytes: &[u8],
        [rows, columns]: [usize; 2],
        order: impl Fn(usize) -> usize,
    ) -> Result<(Quantized, bool), mlx_llamba_kernels::QuantizationError> {
        let scheme = Scheme::new(BLOCK, self.bits(), Mode::Affine)?;
        let groups = columns / BLOCK;
        let words = scheme.packed_columns(columns)?;
        let length = groups * self.block().1;
        let mut packed = Vec::with_capacity(rows * words);
        let mut scales = Vec::with_capacity(rows * groups);
        let mut biases = Vec::with_capacity(rows * groups);
        for i in 0..rows {
            let start = order(i) * length;
            for block in bytes[start..start + length].chunks_exact(self.block().1) {
                let float = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
                let scale = float(0);
                scales.push(scale);
                biases.push(match self {
                    Self::Q4_1 => float(2),
                    // Powers of two: exact.
                    Self::Q4_0 => f16::from_f32(-8.0 * scale.to_f32()),
                    _ => f16::from_f32(-128.0 * scale.to_f32()),
                });
                match self {
                    Self::Q8_0 => pack_bytes(&block[2..], &mut packed),
                    Self::Q4_1 => pack_nibbles(&block[4..], &mut packed),
                    _ => pack_nibbles(&block[2..], &mut packed),
                }
            }
        }
        let finite = scales.iter().chain(&biases).all(|x| x.is_finite());
        let (rows, words, groups) = (rows as i32, words as i32, groups as i32);
        let matrix = Quantized {
            weight: Array::from_slice(&packed, &[rows, words]),
            scales: Array::from_slice(&scales, &[rows, groups]),
            biases: Some(Array::from_slice(&biases, &[rows, groups])),
            scheme,
        };
        Ok((matrix, finite))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// 16 bytes: values 0 to 15 in the low halves, 16 to 31 in the high ones. MLX has value `i` at bit
/// `4 (i % 8)` of word `i / 8`.
fn pack_nibbles(bytes: &[u8], packed: &mut Vec<u32>) {
    for shift in [0, 4] {
        for eight in bytes.chunks_exact(8) {
            let code =
                |word, (i, byte): (usize, &u8)| word | (u32::from(byte >> shift) & 0xf) << (4 * i);
            packed.push(eight.iter().enumerate().fold(0, code));
        }
    }
}

/// 32 signed bytes, made unsigned by adding 128.
fn pack_bytes(bytes: &[u8], packed: &mut Vec<u32>) {
    let (words, _) = bytes.as_chunks::<4>();
    packed.extend(words.iter().map(|&word| u32::from_le_bytes(word) ^ 0x8080_8080));
}
