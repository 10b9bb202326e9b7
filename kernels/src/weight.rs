//! Matrices as checkpoints store them.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, minimum};
use mlx_rs::{Array, Dtype};

use crate::{Packed, QuantizationError, Quantized};

/// A matrix (out, in), dense or quantized.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Floats (out, in).
    Dense(Array),
    /// Codes in groups, as files store them.
    Quantized(Quantized),
    /// Codes in the order of the CPU kernels.
    Packed(Packed),
}

impl Weight {
    /// Joins matrices to one of shape (out_0 + out_1 + .., in), so that one multiplication takes
    /// the place of several. Returns `None` if they are not stored alike, or packed with rows that do
    /// not fill tiles. Lazy.
    ///
    /// # Errors
    /// MLX's report of matrices with different `in`.
    pub fn join(weights: &[&Self]) -> mlx_rs::error::Result<Option<Self>> {
        let mut dense = Vec::new();
        let mut quantized = Vec::new();
        let mut packed = Vec::new();
        for weight in weights {
            match weight {
                Self::Dense(array) => dense.push(array),
                Self::Quantized(part) => quantized.push(part),
                Self::Packed(part) => packed.push(part),
            }
        }
        match (&dense[..], &quantized[..], &packed[..]) {
            ([], [], packed) => Ok(Packed::join(packed)?.map(Self::Packed)),
            ([first, ..], [], []) if dense.iter().all(|w| w.dtype() == first.dtype()) => {
                Ok(Some(Self::Dense(concatenate(&dense, 0)?)))
            }
            ([], [first, ..], [])
                if quantized.iter().all(|q| {
                    q.scheme == first.scheme && q.scales.dtype() == first.scales.dtype()
                }) =>
            {
                let rows = |part: fn(&Quantized) -> &Array| {
                    concatenate(&quantized.iter().map(|q| part(q)).collect::<Vec<_>>(), 0)
                };
                let biases: Option<Vec<&Array>> =
                    quantized.iter().map(|q| q.biases.as_ref()).collect();
                Ok(Some(Self::Quantized(Quantized {
                    weight: rows(|q| &q.weight)?,
                    scales: rows(|q| &q.scales)?,
                    biases: biases.map(|biases| concatenate(&biases, 0)).transpose()?,
                    scheme: first.scheme,
                })))
            }
            _ => Ok(None),
        }
    }

    /// Looks up the rows `ids` of an embedding, in `dtype`: (..) -> (.., in). An id beyond the last row
    /// stands for that row: MLX does not check indices, and would read beyond the matrix.
    ///
    /// # Errors
    /// MLX's report of ids that are not integers.
    pub fn rows(&self, ids: &Array, dtype: Dtype) -> Result<Array, QuantizationError> {
        let rows = match self {
            Self::Dense(weight) => weight.dim(0) as usize,
            Self::Quantized(q) => q.weight.dim(0) as usize,
            Self::Packed(packed) => packed.shape().0,
        };
        let Some(last) = u32::try_from(rows).ok().and_then(|rows| rows.checked_sub(1)) else {
            return Err(Exception::custom("a matrix without rows").into());
        };
        let ids = ids.as_dtype(Dtype::Uint32)?;
        let within = || minimum(&ids, Array::from_slice(&[last], &[]));
        match self {
            Self::Dense(weight) => Ok(weight.try_index(&within()?)?.as_dtype(dtype)?),
            Self::Quantized(q) => q.rows(&within()?, dtype),
            // The kernel bounds the ids.
            Self::Packed(packed) => Ok(packed.rows(&ids, dtype)?),
        }
    }

    /// Returns the arrays that hold the matrix.
    pub fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Dense(weight) => vec![weight],
            Self::Quantized(q) => [&q.weight, &q.scales].into_iter().chain(&q.biases).collect(),
            Self::Packed(packed) => packed.arrays().into(),
        }
    }
}
