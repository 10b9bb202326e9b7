//! Writing checkpoints, tensor by tensor.

mod card;
mod rewrite;

pub(crate) use rewrite::{Rewrite, TensorPlan, plan};

use mlx_rs::Dtype;

use crate::error::{Error, Result};

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
