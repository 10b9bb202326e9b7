//! Matrices of codes in the order in which the CPU kernels read them.

use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, Dtype};

use crate::mlx::Result;
use crate::{Mode, Quantized, Scheme};

/// Rows of a tile: `TILE` in `cpu/packed.h`.
const TILE: i32 = 16;

/// A matrix (out, in) of affine codes of 4 or 8 bits in tiles of 16 rows. Within a tile the words, the
/// scales and the biases at one place of all rows are neighbors; rows past the last are zeros.
///
/// | array | shape | dtype |
/// |---|---|---|
/// | weight | (tiles, in * bits / 32, 16) | u32 |
/// | scales, biases | (tiles, in / group_size, 16) | f32, f16 or bf16 |
#[derive(Debug, Clone)]
pub struct Packed {
    pub(crate) weight: Array,
    pub(crate) scales: Array,
    pub(crate) biases: Array,
    scheme: Scheme,
    out: usize,
}

impl Packed {
    /// Returns true if the CPU kernels read such matrices packed.
    pub(crate) fn takes(scheme: &Scheme) -> bool {
        scheme.mode == Mode::Affine && matches!(scheme.bits, 4 | 8)
    }

    /// Joins the arrays of a matrix with `out` rows.
    pub(crate) fn new([weight, scales, biases]: [Array; 3], scheme: Scheme, out: usize) -> Self {
        Self { weight, scales, biases, scheme, out }
    }

    /// Group size and bits.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns out and in.
    pub fn shape(&self) -> (usize, usize) {
        (self.out, self.scales.dim(1) as usize * self.scheme.group_size)
    }

    /// The arrays that hold the matrix.
    pub fn arrays(&self) -> [&Array; 3] {
        [&self.weight, &self.scales, &self.biases]
    }

    /// Returns the matrix in the order of files. Lazy.
    ///
    /// # Errors
    /// MLX's own.
    pub fn unpacked(&self) -> Result<Quantized> {
        let rows = |part: &Array| -> Result<Array> {
            let rows = part.swap_axes(1, 2)?.reshape(&[-1, part.dim(1)])?;
            Ok(rows.index(..self.out as i32))
        };
        Ok(Quantized {
            weight: rows(&self.weight)?,
            scales: rows(&self.scales)?,
            biases: Some(rows(&self.biases)?),
            scheme: self.scheme,
        })
    }

    /// Looks up the rows `ids` of an embedding, dequantized: (..) -> (.., in).
    ///
    /// # Errors
    /// MLX's own.
    pub(crate) fn rows(&self, ids: &Array, dtype: Dtype) -> Result<Array> {
        crate::cpu::rows(&ids.as_dtype(Dtype::Uint32)?, self)?.as_dtype(dtype)
    }

    /// Joins matrices to one of shape (out_0 + out_1 + .., in), if they are stored alike and end with
    /// whole tiles. Lazy.
    pub(crate) fn join(parts: &[&Self]) -> Result<Option<Self>> {
        let Some((first, (last, others))) = parts.first().zip(parts.split_last()) else {
            return Ok(None);
        };
        let alike = |part: &&Self| {
            part.scheme == first.scheme && part.scales.dtype() == first.scales.dtype()
        };
        let whole = |part: &&Self| part.out as i32 % TILE == 0;
        if !alike(last) || !others.iter().all(|part| alike(part) && whole(part)) {
            return Ok(None);
        }
        let joined = |part: fn(&Self) -> &Array| {
            mlx_rs::ops::concatenate(&parts.iter().map(|p| part(p)).collect::<Vec<_>>(), 0)
        };
        let arrays = [joined(|p| &p.weight)?, joined(|p| &p.scales)?, joined(|p| &p.biases)?];
        let out = parts.iter().map(|part| part.out).sum();
        Ok(Some(Self::new(arrays, first.scheme, out)))
    }
}
