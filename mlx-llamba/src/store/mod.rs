//! Writing checkpoints, tensor by tensor.

mod card;
mod rewrite;

pub(crate) use rewrite::{Rewrite, TensorPlan, plan};

use std::ops::ControlFlow;

use mlx_rs::Dtype;

use crate::error::{Error, Result};

/// The progress of quantizing or converting.
#[non_exhaustive]
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Canonical name of the current tensor.
    pub tensor: &'a str,
    /// Values written so far.
    pub done: u64,
    /// Values in the model.
    pub total: u64,
}

/// Progress callback. If it returns [`ControlFlow::Break`], the work stops and nothing is left
/// behind.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

/// The safetensors dtype of a float dtype that tensors can be written in.
pub(crate) fn stored_float(dtype: Dtype) -> Result<safetensors::Dtype> {
    match dtype {
        Dtype::Float32 => Ok(safetensors::Dtype::F32),
        Dtype::Float16 => Ok(safetensors::Dtype::F16),
        Dtype::Bfloat16 => Ok(safetensors::Dtype::BF16),
        other => Err(Error::Argument {
            name: "dtype",
            value: format!("{other:?}"),
            expected: "float32, float16 or bfloat16".into(),
        }),
    }
}
