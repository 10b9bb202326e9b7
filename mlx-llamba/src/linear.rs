//! Matrices as the checkpoint stores them, dense or quantized, behind one interface.

use mlx_llamba_kernels::{Backend, QuantizationError, Quantized, Weight};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use crate::error::{Error, Result};
use crate::random::Weights;

/// What computes, and in which dtype activations are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numerics {
    pub(crate) backend: Backend,
    pub(crate) dtype: Dtype,
}

/// A matrix (out, in).
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    name: String,
    backend: Backend,
    dtype: Dtype,
    weight: Weight,
}

impl Matrix {
    /// The matrix `prefix.weight`. Lazy.
    pub(crate) fn load(checkpoint: &impl Weights, prefix: &str, compute: Numerics) -> Result<Self> {
        let part = |suffix: &str| checkpoint.array(&format!("{prefix}.{suffix}"));
        let Numerics { backend, dtype } = compute;
        // Codes of scales (u8 in the microscaling modes) stay codes.
        let cast = |array: Array| match array.dtype() {
            Dtype::Uint8 | Dtype::Uint32 => Ok(array),
            _ if backend.reads_stored_floats() => Ok(array),
            _ => array.as_dtype(dtype),
        };
        let weight = match checkpoint.scheme(prefix) {
            None => Weight::Dense(cast(part("weight")?)?),
            Some(scheme) => Weight::Quantized(Quantized {
                weight: part("weight")?,
                scales: cast(part("scales")?)?,
                biases: if scheme.mode.has_biases() { Some(cast(part("biases")?)?) } else { None },
                scheme,
            }),
        };
        Ok(Self { name: prefix.to_owned(), backend, dtype, weight })
    }

    /// `x (.., in) -> x W^T (.., out)`.
    pub(crate) fn matmul(&self, x: &Array) -> Result<Array> {
        self.backend.matmul(x, &self.weight).map_err(|e| self.named(e))
    }

    /// The rows `ids` (..) -> (.., in).
    pub(crate) fn rows(&self, ids: &Array) -> Result<Array> {
        match &self.weight {
            Weight::Dense(weight) => Ok(weight.try_index(ids)?.as_dtype(self.dtype)?),
            Weight::Quantized(weight) => weight.rows(ids, self.dtype).map_err(|e| self.named(e)),
        }
    }

    fn named(&self, source: QuantizationError) -> Error {
        Error::Quantization { tensor: self.name.clone(), source }
    }

    /// All arrays that hold the matrix.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        self.weight.arrays()
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
    pub(crate) fn load(checkpoint: &impl Weights, prefix: &str, compute: Numerics) -> Result<Self> {
        Ok(Self {
            matrix: Matrix::load(checkpoint, prefix, compute)?,
            bias: optional(checkpoint, &format!("{prefix}.bias"), compute.dtype)?,
        })
    }

    /// Two layers with one input, the second's outputs after the first's, if they are stored
    /// alike.
    pub(crate) fn join(first: &Self, second: &Self) -> Result<Option<Self>> {
        let bias = match (&first.bias, &second.bias) {
            (None, None) => None,
            (Some(first), Some(second)) => Some(concatenate(&[first, second], 0)?),
            _ => return Ok(None),
        };
        let weights = Weight::join(&[&first.matrix.weight, &second.matrix.weight])?;
        let name = format!("{} and {}", first.matrix.name, second.matrix.name);
        Ok(weights.map(|weight| Self { matrix: Matrix { name, weight, ..first.matrix }, bias }))
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
