//! Matrices in MLX's group quantization.

use std::ffi::CStr;

use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, DeviceType, Dtype};
use serde::{Deserialize, Serialize};

use crate::mlx::current_device;
use crate::mlx::quantized::{self as mlx, RawScheme};

/// The coding of the values of a group, named as in MLX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Integers with a scale and a bias per group.
    #[default]
    Affine,
    /// Microscaling 4-bit floats (E2M1) with a power of two (E8M0) per group of 32.
    Mxfp4,
    /// Microscaling 8-bit floats (E4M3) with a power of two (E8M0) per group of 32.
    Mxfp8,
    /// 4-bit floats (E2M1) with an E4M3 scale per group of 16.
    Nvfp4,
}

impl Mode {
    /// Returns the name in MLX and in `config.json`.
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

    /// Returns true if every group has a bias beside its scale.
    pub const fn has_biases(self) -> bool {
        matches!(self, Self::Affine)
    }

    /// Returns the group size and bits that MLX uses by default.
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

/// The reasons why a matrix cannot be quantized, or a quantized one cannot be read.
#[non_exhaustive]
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum QuantizationError {
    /// MLX does not have this number of bits.
    #[error("{bits} bits: MLX knows 2, 3, 4, 5, 6 and 8 in affine mode")]
    Bits {
        /// Requested bits.
        bits: usize,
    },
    /// MLX does not have this group size.
    #[error("group size {group_size}: MLX knows 32, 64 and 128 in affine mode")]
    GroupSize {
        /// Requested group size.
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
    /// The group size does not divide the rows.
    #[error("rows of {columns} values do not divide into groups of {group_size}")]
    Columns {
        /// Values in a row.
        columns: usize,
        /// Values in a group.
        group_size: usize,
    },
    /// MLX reported an error.
    #[error("{0}")]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Group size, bits and mode: the metadata of quantized arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    /// Values of a row that share a scale.
    pub group_size: usize,
    /// Bits per value.
    pub bits: usize,
    /// Coding of the values.
    #[serde(default)]
    pub mode: Mode,
}

impl Scheme {
    /// Returns a scheme that MLX has.
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

    /// Returns the number of packed `u32` words in a row of `columns` values.
    ///
    /// # Errors
    /// [`QuantizationError::Columns`] if the groups do not divide the row.
    pub fn packed_columns(&self, columns: usize) -> Result<usize, QuantizationError> {
        if columns == 0 || !columns.is_multiple_of(self.group_size) {
            return Err(QuantizationError::Columns { columns, group_size: self.group_size });
        }
        // Every scheme that `new` accepts has groups of whole words.
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

/// Rows of activations from which on MLX's CPU back end is faster with a dequantized weight: its
/// `quantized_matmul` runs on one thread at about 1 % of sgemm's speed (`mlx-llamba bench`).
const CPU_DEQUANTIZE_ROWS: usize = 8;
/// Output rows dequantized at a time: MLX unpacks in several passes, each of which takes memory;
/// they are fastest inside the cache.
const CPU_TILE: i32 = 512;

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
    /// A scale per group.
    pub scales: Array,
    /// A bias per group, in affine mode.
    pub biases: Option<Array>,
    /// Metadata.
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

    /// Returns the matrix (out, in) that the packed values represent, in `dtype`.
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn dequantize(&self, dtype: Dtype) -> Result<Array, QuantizationError> {
        Ok(mlx::dequantize(
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme.raw(),
            dtype,
        )?)
    }

    /// Returns the same matrix with float scales in float32, so that
    /// [`dequantize`](Self::dequantize), which computes in their dtype, does not round.
    ///
    /// # Errors
    /// MLX's report.
    pub fn widened(&self) -> Result<Self, QuantizationError> {
        let float = |array: &Array| widen(array.clone(), Dtype::Float32);
        Ok(Self {
            weight: self.weight.clone(),
            scales: float(&self.scales)?,
            biases: self.biases.as_ref().map(float).transpose()?,
            scheme: self.scheme,
        })
    }

    /// Looks up the rows `ids` of an embedding, all of them below `out`, dequantized: (..) -> (.., in).
    pub(crate) fn rows(&self, ids: &Array, dtype: Dtype) -> Result<Array, QuantizationError> {
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

    /// Multiplies by the transposed matrix: `x (.., in) -> x W^T (.., out)`.
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn matmul(&self, x: &Array) -> Result<Array, QuantizationError> {
        let columns = x.shape().last().map_or(1, |&c| c.max(1) as usize);
        if x.size() / columns >= CPU_DEQUANTIZE_ROWS && on_cpu()? {
            return self.matmul_dequantized(x, CPU_TILE);
        }
        // In two dimensions: MLX's CUDA back end reads the weights again for every sequence of a
        // batch.
        let rows = x.reshape(&[-1, columns as i32])?; // (rows, in)
        let y = mlx::quantized_matmul(
            &rows,
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme.raw(),
        )?; // (rows, out)
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = y.dim(-1);
        }
        Ok(y.reshape(&shape)?)
    }

    /// Computes the same as a product of dense matrices, one `tile` of output rows after the other.
    ///
    /// Each tile waits for the one before it, and the first one for `x`: otherwise MLX would
    /// dequantize many matrices of a model at once.
    pub(crate) fn matmul_dequantized(
        &self,
        x: &Array,
        tile: i32,
    ) -> Result<Array, QuantizationError> {
        let out = self.weight.dim(0);
        let mut tiles: Vec<Array> = Vec::new();
        for start in (0..out).step_by(tile as usize) {
            let rows = start..out.min(start.saturating_add(tile));
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

/// Casts float scales to the dtype of the result, as `quantized_matmul` does: `dequantize` would
/// round every weight to the dtype of the scales. Coded scales stay codes.
fn widen(scales: Array, dtype: Dtype) -> Result<Array, QuantizationError> {
    match scales.dtype() {
        Dtype::Uint8 => Ok(scales),
        _ => Ok(scales.as_dtype(dtype)?),
    }
}

/// Returns true if operations built now will run on the CPU.
fn on_cpu() -> Result<bool, QuantizationError> {
    Ok(matches!(current_device()?, DeviceType::Cpu))
}
