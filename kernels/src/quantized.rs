//! A matrix in MLX's group quantization.

use std::ffi::CStr;

use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, DeviceType, Dtype};
use serde::{Deserialize, Serialize};

use crate::mlx::current_device;
use crate::mlx::quantized::{self as mlx, RawScheme};

/// How the values of a group are coded, under the names that MLX uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Integers with a scale and a bias a group.
    #[default]
    Affine,
    /// Microscaling 4-bit floats (E2M1), a power of two (E8M0) a group of 32.
    Mxfp4,
    /// Microscaling 8-bit floats (E4M3), a power of two (E8M0) a group of 32.
    Mxfp8,
    /// 4-bit floats (E2M1), an E4M3 scale a group of 16.
    Nvfp4,
}

impl Mode {
    /// The name in MLX and in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    const fn c_name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }

    /// True if every group has a bias beside its scale.
    pub const fn has_biases(self) -> bool {
        matches!(self, Self::Affine)
    }

    /// Group size and bits that MLX takes when nothing is said.
    pub const fn defaults(self) -> (usize, usize) {
        match self {
            Self::Affine => (64, 4),
            Self::Mxfp4 => (32, 4),
            Self::Mxfp8 => (32, 8),
            Self::Nvfp4 => (16, 4),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a matrix cannot be quantized, or a quantized one not be read.
#[non_exhaustive]
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum QuantizationError {
    /// MLX has no such number of bits.
    #[error("{bits} bits: MLX knows 2, 3, 4, 5, 6 and 8 in affine mode")]
    Bits {
        /// Bits asked for.
        bits: usize,
    },
    /// MLX has no such group size.
    #[error("group size {group_size}: MLX knows 32, 64 and 128 in affine mode")]
    GroupSize {
        /// Group size asked for.
        group_size: usize,
    },
    /// The mode fixes both numbers.
    #[error("mode {mode} has group size {group_size} and {bits} bits, nothing else")]
    Fixed {
        /// The mode.
        mode: Mode,
        /// Its group size.
        group_size: usize,
        /// Its bits.
        bits: usize,
    },
    /// Rows do not divide into groups.
    #[error("rows of {columns} values do not divide into groups of {group_size}")]
    Columns {
        /// Values in a row.
        columns: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// MLX refused.
    #[error("{0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Group size, bits and mode: all that is needed to read quantized arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    /// Values of a row that share a scale.
    pub group_size: usize,
    /// Bits a value.
    pub bits: usize,
    /// Coding of the values.
    #[serde(default)]
    pub mode: Mode,
}

impl Scheme {
    /// Checks that MLX has such a scheme.
    ///
    /// # Errors
    /// [`QuantizationError::Bits`], [`QuantizationError::GroupSize`] or
    /// [`QuantizationError::Fixed`].
    pub fn new(group_size: usize, bits: usize, mode: Mode) -> Result<Self, QuantizationError> {
        if mode == Mode::Affine {
            if !matches!(bits, 2..=6 | 8) {
                return Err(QuantizationError::Bits { bits });
            }
            if !matches!(group_size, 32 | 64 | 128) {
                return Err(QuantizationError::GroupSize { group_size });
            }
        } else if (group_size, bits) != mode.defaults() {
            let (group_size, bits) = mode.defaults();
            return Err(QuantizationError::Fixed { mode, group_size, bits });
        }
        Ok(Self { group_size, bits, mode })
    }

    /// Packed `u32` words in a row of `columns` values.
    ///
    /// # Errors
    /// [`QuantizationError::Columns`] if the groups do not divide the row.
    pub fn packed_columns(&self, columns: usize) -> Result<usize, QuantizationError> {
        if columns == 0 || !columns.is_multiple_of(self.group_size) {
            return Err(QuantizationError::Columns { columns, group_size: self.group_size });
        }
        // A group of at least 16 values of 2 bits fills whole words only from 32 values on;
        // every scheme that `new` lets through does.
        Ok(columns * self.bits / 32)
    }

    fn raw(&self) -> RawScheme {
        // `new` bounds both numbers.
        RawScheme {
            group_size: self.group_size as i32,
            bits: self.bits as i32,
            mode: self.mode.c_name(),
        }
    }
}

/// From this many rows of activations on, MLX's CPU back end is faster with a dequantized
/// weight: its `quantized_matmul` runs on one thread at about 1 % of sgemm's speed
/// (`mlx-llamba bench`).
const CPU_DEQUANTIZE_ROWS: usize = 8;
/// Output rows dequantized at a time: MLX unpacks in several passes, which are fastest when they
/// stay in the cache, and each takes memory.
const CPU_TILE: usize = 512;

/// A quantized matrix of shape (out, in).
///
/// | field | shape | dtype |
/// |---|---|---|
/// | weight | (out, in * bits / 32) | u32 |
/// | scales | (out, in / group_size) | float, or u8 in the modes with coded scales |
/// | biases | as scales; affine mode only | as scales |
#[derive(Debug, Clone)]
pub struct Quantized {
    /// Packed values.
    pub weight: Array,
    /// A scale a group.
    pub scales: Array,
    /// A bias a group, in affine mode.
    pub biases: Option<Array>,
    /// How to read them.
    pub scheme: Scheme,
}

impl Quantized {
    /// Quantizes `w` (out, in) exactly as `mx.quantize` does.
    ///
    /// # Errors
    /// [`QuantizationError::Columns`] if the group size does not divide `in`.
    pub fn quantize(w: &Array, scheme: Scheme) -> Result<Self, QuantizationError> {
        scheme.packed_columns(w.shape().last().copied().unwrap_or(0).max(0) as usize)?;
        let mut parts = mlx::quantize(w, scheme.raw())?.into_iter();
        let (Some(weight), Some(scales)) = (parts.next(), parts.next()) else {
            return Err(mlx_rs::error::Exception::custom("quantize gave no scales").into());
        };
        Ok(Self { weight, scales, biases: parts.next(), scheme })
    }

    /// The matrix (out, in) that the packed values stand for, in `dtype`.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn dequantize(&self, dtype: Dtype) -> Result<Array, QuantizationError> {
        Ok(mlx::dequantize(
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme.raw(),
            dtype,
        )?)
    }

    /// The same matrix with float scales in float32, so that [`dequantize`](Self::dequantize), which
    /// computes in their dtype, rounds nothing.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn widened(&self) -> Result<Self, QuantizationError> {
        let float = |array: &Array| widen(array.clone(), Dtype::Float32);
        Ok(Self {
            weight: self.weight.clone(),
            scales: float(&self.scales)?,
            biases: self.biases.as_ref().map(float).transpose()?,
            scheme: self.scheme,
        })
    }

    /// The rows `ids`, dequantized: an embedding's look-up. (..) -> (.., in).
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn rows(&self, ids: &Array, dtype: Dtype) -> Result<Array, QuantizationError> {
        let rows = Self {
            weight: self.weight.index(ids),
            scales: self.scales.index(ids),
            biases: self.biases.as_ref().map(|b| b.index(ids)),
            scheme: self.scheme,
        };
        match dtype {
            Dtype::Float32 => rows.widened()?.dequantize(dtype),
            _ => rows.dequantize(dtype),
        }
    }

    /// `x (.., in) -> x W^T (.., out)`.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn matmul(&self, x: &Array) -> Result<Array, QuantizationError> {
        let columns = x.shape().last().map_or(1, |&c| c.max(1) as usize);
        if x.size() / columns >= CPU_DEQUANTIZE_ROWS && on_cpu()? {
            return self.matmul_dequantized(x);
        }
        Ok(mlx::quantized_matmul(
            x,
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme.raw(),
        )?)
    }

    /// The same product by sgemm, a tile of output rows after the other.
    ///
    /// Each tile waits for the one before it, and the first one for `x`: without that MLX, which
    /// sees no reason to wait, would dequantize many matrices of a model at once.
    fn matmul_dequantized(&self, x: &Array) -> Result<Array, QuantizationError> {
        let out = self.weight.dim(0);
        let tile = CPU_TILE as i32;
        let mut tiles: Vec<Array> = Vec::new();
        for start in (0..out).step_by(CPU_TILE) {
            let rows = start..out.min(start + tile);
            let part = Self {
                weight: mlx::after(&self.weight.index(rows.clone()), tiles.last().unwrap_or(x))?,
                scales: widen(self.scales.index(rows.clone()), x.dtype())?,
                biases: match &self.biases {
                    Some(biases) => Some(widen(biases.index(rows), x.dtype())?),
                    None => None,
                },
                scheme: self.scheme,
            };
            tiles.push(x.matmul(part.dequantize(x.dtype())?.t())?);
        }
        match tiles.len() {
            1 => Ok(tiles.remove(0)),
            _ => Ok(mlx_rs::ops::concatenate(&tiles, -1)?),
        }
    }
}

/// Float scales in the dtype of the product, as `quantized_matmul` takes them: `dequantize` would
/// round every weight to the dtype of the scales. Coded ones stay codes.
fn widen(scales: Array, dtype: Dtype) -> Result<Array, QuantizationError> {
    match scales.dtype() {
        Dtype::Uint8 => Ok(scales),
        _ => Ok(scales.as_dtype(dtype)?),
    }
}

/// True if operations built now will run on the CPU.
fn on_cpu() -> Result<bool, QuantizationError> {
    Ok(matches!(current_device()?, DeviceType::Cpu))
}
