//! Writing checkpoints: whole directories that appear at once, streamed tensor by tensor.

mod card;
mod rewrite;

pub(crate) use rewrite::{Job, Unit, units};

use std::ops::ControlFlow;

use mlx_rs::Dtype;

use crate::error::{Error, Result};

/// How far a rewrite has come. Return [`ControlFlow::Break`] from the callback to stop it; then
/// nothing is left behind.
#[non_exhaustive]
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Canonical name of the tensor at hand.
    pub tensor: &'a str,
    /// Values dealt with so far.
    pub done: u64,
    /// Values in the model.
    pub total: u64,
}

/// What a caller is told with, and can stop the work through.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

/// A dtype that dense tensors may be written in, as safetensors names it.
pub(crate) fn stored(dtype: Dtype) -> Result<safetensors::Dtype> {
    match dtype {
        Dtype::Float32 => Ok(safetensors::Dtype::F32),
        Dtype::Float16 => Ok(safetensors::Dtype::F16),
        Dtype::Bfloat16 => Ok(safetensors::Dtype::BF16),
        other => Err(Error::Option {
            option: "dtype",
            value: format!("{other:?}"),
            expected: "float32, float16 or bfloat16".into(),
        }),
    }
}
