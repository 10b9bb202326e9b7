//! Linear layers with dense or quantized matrices.

use mlx_llamba_kernels::{Backend, LinearArgs, QuantizationError, Quantized, Weight};
use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, split_at_indices, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::error::{Error, Result};
use crate::weights::Weights;

/// The back end and the dtype of activations.
#[derive(Debug, Clone, Copy)]
pub struct DtypePolicy {
    /// The back end.
    pub backend: Backend,
    /// The dtype of activations.
    pub dtype: Dtype,
}

impl DtypePolicy {
    /// Checks that the back end supports the dtype.
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

    /// Converts a float array for matrix multiplication: unchanged if the back end reads every float
    /// dtype, else to the dtype of activations. Integers (packed values, and the u8 scales of the
    /// microscaling modes) stay as they are.
    ///
    /// # Errors
    /// MLX's own.
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
    /// Creates a matrix whose floats were converted by [`DtypePolicy::cast`], in the order of
    /// [`Backend::arrange`]; errors use `name`.
    pub fn new(name: &str, weight: Weight, compute: DtypePolicy) -> Self {
        let DtypePolicy { backend, dtype } = compute;
        Self { name: name.to_owned(), backend, dtype, weight }
    }

    /// The weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Loads the matrix `prefix.weight`. Lazy.
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
        Ok(Self::new(prefix, compute.backend.arrange(weight)?, compute))
    }

    /// Computes `x W^T`: (.., in) -> (.., out).
    ///
    /// # Errors
    /// [`Error::Quantization`] with what MLX reports of shapes that do not fit.
    pub fn matmul(&self, x: &Array) -> Result<Array> {
        self.backend.matmul(x, &self.weight).map_err(|e| self.named(e))
    }

    /// Returns the rows `ids`: (..) -> (.., in), in the dtype of activations. An id beyond the last
    /// row stands for that row.
    ///
    /// # Errors
    /// [`Error::Quantization`] with what MLX reports.
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        self.backend.rows(ids, &self.weight, self.dtype).map_err(|e| self.named(e))
    }

    fn named(&self, source: QuantizationError) -> Error {
        Error::Quantization { tensor: self.name.clone(), source }
    }

    /// The arrays of the matrix.
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
    /// Creates a layer with an optional bias (out,) in the dtype of activations.
    pub fn new(matrix: Matrix, bias: Option<Array>) -> Self {
        Self { matrix, bias }
    }

    /// Loads the layer `prefix`, with a bias if the checkpoint has one.
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

    /// Joins two layers with the same input, the second's outputs after the first's. Returns `None` if
    /// they are stored differently.
    ///
    /// # Errors
    /// MLX's own, of layers with different inputs.
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

    /// Returns the layer's first `at` outputs and the others as two layers; `None` for a quantized matrix.
    ///
    /// # Errors
    /// MLX's own if there are fewer.
    pub fn split(&self, at: usize) -> Result<Option<(Self, Self)>> {
        let Weight::Dense(weight) = &self.matrix.weight else { return Ok(None) };
        let cut = |array: &Array| -> Result<[Array; 2]> {
            let missing = |_| Exception::custom("a matrix was not cut in two");
            Ok(split_at_indices(array, &[at as i32], 0)?.try_into().map_err(missing)?)
        };
        let bias = self.bias.as_ref().map(cut).transpose()?;
        let [first, second] = bias.map_or([None, None], |parts| parts.map(Some));
        let part = |weight: Array, bias| Self {
            matrix: Matrix { weight: Weight::Dense(weight), ..self.matrix.clone() },
            bias,
        };
        let [top, rest] = cut(weight)?;
        Ok(Some((part(top, first), part(rest, second))))
    }

    /// Returns the layer with more outputs, which are 0, up to a multiple of `multiple`; as it is if its matrix is
    /// quantized.
    ///
    /// # Errors
    /// MLX's own.
    pub fn padded(self, multiple: usize) -> Result<Self> {
        let Weight::Dense(weight) = &self.matrix.weight else { return Ok(self) };
        let rows = weight.dim(0) as usize;
        let more = (rows.next_multiple_of(multiple.max(1)) - rows) as i32;
        if more == 0 {
            return Ok(self);
        }
        let pad = |array: &Array, shape: &[i32]| {
            concatenate(&[array, &zeros_dtype(shape, array.dtype())?], 0)
        };
        let bias = self.bias.as_ref().map(|bias| pad(bias, &[more])).transpose()?;
        let weight = Weight::Dense(pad(weight, &[more, weight.dim(1)])?);
        Ok(Self { matrix: Matrix { weight, ..self.matrix }, bias })
    }

    /// Computes (.., in) -> (.., out).
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

    /// The matrix and the bias as arguments of [`Backend::blocks`].
    pub(crate) fn args(&self) -> LinearArgs<'_> {
        LinearArgs { weight: self.matrix.weight(), bias: self.bias.as_ref() }
    }

    /// The weight of the matrix.
    pub fn weight(&self) -> &Weight {
        self.matrix.weight()
    }

    /// The arrays of the layer.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.matrix.arrays().into_iter().chain(&self.bias)
    }
}

/// The two layers of a gated MLP, which have the same input.
#[derive(Debug, Clone)]
pub enum GateUp {
    /// Stacked: one matrix multiplication.
    Joined(Linear),
    /// Separate, where a recipe quantizes them differently.
    Apart(Linear, Linear),
}

impl GateUp {
    /// Joins the layers, if they are stored alike.
    ///
    /// # Errors
    /// As [`Linear::join`].
    pub fn new(gate_proj: Linear, up_proj: Linear) -> Result<Self> {
        Ok(match Linear::join(&gate_proj, &up_proj)? {
            Some(joined) => Self::Joined(joined),
            None => Self::Apart(gate_proj, up_proj),
        })
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        match self {
            Self::Joined(both) => [Some(both), None],
            Self::Apart(gate_proj, up_proj) => [Some(gate_proj), Some(up_proj)],
        }
        .into_iter()
        .flatten()
    }

    /// Computes (.., in) -> (.., out), the gate first.
    ///
    /// # Errors
    /// As [`Matrix::matmul`].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Joined(both) => both.forward(x),
            Self::Apart(gate_proj, up_proj) => {
                Ok(concatenate(&[gate_proj.forward(x)?, up_proj.forward(x)?], -1)?)
            }
        }
    }
}

/// Loads a float tensor in `dtype`, if the checkpoint has it. Lazy.
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
