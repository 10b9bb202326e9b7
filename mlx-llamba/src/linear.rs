//! Matrices as the checkpoint stores them, dense or quantized, behind one interface.

use mlx_llamba_kernels::{Backend, QuantizationError, Quantized, Weight};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use crate::error::{Error, Result};
use crate::weights::Weights;

/// What computes, and in which dtype activations are.
#[derive(Debug, Clone, Copy)]
pub struct DtypePolicy {
    /// What computes.
    pub backend: Backend,
    /// Dtype of the activations.
    pub dtype: Dtype,
}

impl DtypePolicy {
    /// Checks that there is such a combination.
    ///
    /// # Errors
    /// [`Error::Argument`] for a dtype that is not float32, float16 or bfloat16, or one that the
    /// back end does not take.
    pub fn new(backend: Backend, dtype: Dtype) -> Result<Self> {
        let expected = match backend.takes(dtype) {
            _ if !matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) => {
                "float32, float16 or bfloat16".to_owned()
            }
            Err(reason) => format!("another one or another back end: {reason}"),
            Ok(()) => return Ok(Self { backend, dtype }),
        };
        Err(Error::Argument { name: "dtype", value: format!("{dtype:?}"), expected })
    }

    /// A float array as matrix products take it: as it is where the back end reads every float
    /// dtype, else in the dtype of the activations. Codes of scales (u8 in the microscaling
    /// modes) and packed values stay what they are.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn cast(self, array: Array) -> mlx_rs::error::Result<Array> {
        match array.dtype() {
            Dtype::Uint8 | Dtype::Uint32 => Ok(array),
            _ if self.backend.reads_stored_floats() => Ok(array),
            _ => array.as_dtype(self.dtype),
        }
    }
}

/// A matrix (out, in).
#[derive(Debug, Clone)]
pub struct Matrix {
    name: String,
    backend: Backend,
    dtype: Dtype,
    weight: Weight,
}

impl Matrix {
    /// A matrix whose floats are as [`DtypePolicy::cast`] gives them; `name` is what errors call it.
    pub fn new(name: &str, weight: Weight, compute: DtypePolicy) -> Self {
        let DtypePolicy { backend, dtype } = compute;
        Self { name: name.to_owned(), backend, dtype, weight }
    }

    /// The matrix itself.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The matrix `prefix.weight`. Lazy.
    pub(crate) fn load(
        checkpoint: &impl Weights,
        prefix: &str,
        compute: DtypePolicy,
    ) -> Result<Self> {
        let part = |suffix: &str| checkpoint.array(&format!("{prefix}.{suffix}"));
        let cast = |array: Array| compute.cast(array);
        let weight = match checkpoint.scheme(prefix) {
            None => Weight::Dense(cast(part("weight")?)?),
            Some(scheme) => Weight::Quantized(Quantized {
                weight: part("weight")?,
                scales: cast(part("scales")?)?,
                biases: if scheme.mode.has_biases() { Some(cast(part("biases")?)?) } else { None },
                scheme,
            }),
        };
        Ok(Self::new(prefix, weight, compute))
    }

    /// `x (.., in) -> x W^T (.., out)`.
    ///
    /// # Errors
    /// [`Error::Quantization`] with what MLX reports of shapes that do not fit.
    pub fn matmul(&self, x: &Array) -> Result<Array> {
        self.backend.matmul(x, &self.weight).map_err(|e| self.named(e))
    }

    /// The rows `ids` (..) -> (.., in) in the dtype of the activations.
    ///
    /// # Errors
    /// [`Error::Quantization`] with what MLX reports.
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        match &self.weight {
            Weight::Dense(weight) => Ok(weight.try_index(ids)?.as_dtype(self.dtype)?),
            Weight::Quantized(weight) => weight.rows(ids, self.dtype).map_err(|e| self.named(e)),
        }
    }

    fn named(&self, source: QuantizationError) -> Error {
        Error::Quantization { tensor: self.name.clone(), source }
    }

    /// All arrays that hold the matrix.
    pub fn arrays(&self) -> Vec<&Array> {
        self.weight.arrays()
    }
}

/// `x W^T + bias`.
#[derive(Debug, Clone)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// A matrix with a bias (out,) in the dtype of the activations, or without.
    pub fn new(matrix: Matrix, bias: Option<Array>) -> Self {
        Self { matrix, bias }
    }

    /// The layer under `prefix`, with a bias if the checkpoint has one.
    pub(crate) fn load(
        checkpoint: &impl Weights,
        prefix: &str,
        compute: DtypePolicy,
    ) -> Result<Self> {
        Ok(Self {
            matrix: Matrix::load(checkpoint, prefix, compute)?,
            bias: optional(checkpoint, &format!("{prefix}.bias"), compute.dtype)?,
        })
    }

    /// Two layers with one input, the second's outputs after the first's, if they are stored
    /// alike.
    ///
    /// # Errors
    /// What MLX reports of layers with different inputs.
    pub fn join(first: &Self, second: &Self) -> Result<Option<Self>> {
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
    ///
    /// # Errors
    /// As [`Matrix::matmul`].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let y = self.matrix.matmul(x)?;
        Ok(match &self.bias {
            Some(bias) => y.add(bias)?,
            None => y,
        })
    }

    /// All arrays that hold the layer.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
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
