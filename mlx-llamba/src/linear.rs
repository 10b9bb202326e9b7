//! Matrices as the checkpoint stores them, dense or quantized, behind one interface.

use mlx_llamba_kernels::{QuantizationError, Quantized};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use crate::error::{Error, Result};
use crate::random::Weights;

/// A matrix (out, in).
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    name: String,
    dtype: Dtype,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Dense(Array),
    Quantized(Quantized),
}

impl Matrix {
    /// The matrix `prefix.weight`, its floats cast to `dtype`. Lazy.
    pub(crate) fn load(checkpoint: &impl Weights, prefix: &str, dtype: Dtype) -> Result<Self> {
        let part = |suffix: &str| checkpoint.array(&format!("{prefix}.{suffix}"));
        // Codes of scales (u8 in the microscaling modes) stay codes.
        let cast = |array: Array| match array.dtype() {
            Dtype::Uint8 | Dtype::Uint32 => Ok(array),
            _ => array.as_dtype(dtype),
        };
        let values = match checkpoint.scheme(prefix) {
            None => Values::Dense(cast(part("weight")?)?),
            Some(scheme) => Values::Quantized(Quantized {
                weight: part("weight")?,
                scales: cast(part("scales")?)?,
                biases: if scheme.mode.has_biases() { Some(cast(part("biases")?)?) } else { None },
                scheme,
            }),
        };
        Ok(Self { name: prefix.to_owned(), dtype, values })
    }

    /// `x (.., in) -> x W^T (.., out)`.
    pub(crate) fn matmul(&self, x: &Array) -> Result<Array> {
        match &self.values {
            Values::Dense(weight) => Ok(x.matmul(weight.t())?),
            Values::Quantized(weight) => weight.matmul(x).map_err(|e| self.named(e)),
        }
    }

    /// The rows `ids` (..) -> (.., in).
    pub(crate) fn rows(&self, ids: &Array) -> Result<Array> {
        match &self.values {
            Values::Dense(weight) => Ok(weight.try_index(ids)?),
            Values::Quantized(weight) => weight.rows(ids, self.dtype).map_err(|e| self.named(e)),
        }
    }

    fn named(&self, source: QuantizationError) -> Error {
        Error::Quantization { tensor: self.name.clone(), source }
    }

    /// All arrays that hold the matrix.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        match &self.values {
            Values::Dense(weight) => vec![weight],
            Values::Quantized(q) => [&q.weight, &q.scales].into_iter().chain(&q.biases).collect(),
        }
    }
}

/// `x W^T + bias`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// The layer under `prefix`, with a bias if the checkpoint has one.
    pub(crate) fn load(checkpoint: &impl Weights, prefix: &str, dtype: Dtype) -> Result<Self> {
        Ok(Self {
            matrix: Matrix::load(checkpoint, prefix, dtype)?,
            bias: optional(checkpoint, &format!("{prefix}.bias"), dtype)?,
        })
    }

    /// (.., in) -> (.., out)
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let y = self.matrix.matmul(x)?;
        Ok(match &self.bias {
            Some(bias) => y.add(bias)?,
            None => y,
        })
    }

    /// All arrays that hold the layer.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.matrix.arrays().into_iter().chain(&self.bias)
    }
}

/// A float tensor in `dtype`, if the checkpoint has it. Lazy.
pub(crate) fn optional(
    checkpoint: &impl Weights,
    name: &str,
    dtype: Dtype,
) -> Result<Option<Array>> {
    if !checkpoint.contains(name) {
        return Ok(None);
    }
    Ok(Some(checkpoint.array(name)?.as_dtype(dtype)?))
}
