//! A mixer between its projections, as one operation.

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::raw;
use crate::mixer::{Mixed, MixerArgs, MixerInput, MixerState, MixerWeights};

/// Implements [`Backend::mixer`](crate::Backend::mixer); shapes have been checked, and there are no
/// document starts. Activations in float32.
///
/// The bits of the results do not depend on how a prompt is cut into calls, nor on the number of
/// threads. Outputs at padded positions are 0; lengths below 0 or above l count as 0 and l.
pub(crate) fn mixer(args: MixerArgs<'_>) -> Result<Mixed> {
    let MixerArgs { input, state, weights, .. } = args;
    let found = input.rows.dtype();
    if found != Dtype::Float32 {
        return Err(Exception::custom(format!("CPU mixer: rows are {found:?}, expected Float32")));
    }
    let float = |array: &Array| as_dtype(array, Dtype::Float32);
    let float_if = |array: Option<&Array>| array.map(float).transpose();
    let A_log = float_if(input.A_log)?;
    let lengths = input.lengths.map(|array| as_dtype(array, Dtype::Int32)).transpose()?;
    let input = MixerInput {
        A_log: A_log.as_ref(),
        lengths: lengths.as_ref(),
        ..MixerInput::new(input.rows)
    };
    let state = MixerState { conv: float(&state.conv)?, ssm: float(&state.ssm)? };
    let weights = MixerWeights {
        conv_weight: float(&weights.conv_weight)?,
        conv_bias: float_if(weights.conv_bias.as_ref())?,
        z_bias: float_if(weights.z_bias.as_ref())?,
        D: float(&weights.D)?,
    };
    let [y, conv, ssm] =
        raw::mixer(MixerArgs { input: &input, state: &state, weights: &weights, ..args })?;
    Ok(Mixed { y, state: MixerState { conv, ssm } })
}

/// Casts to `dtype`, without an operation where the array has it.
fn as_dtype(array: &Array, dtype: Dtype) -> Result<Array> {
    if array.dtype() == dtype { Ok(array.clone()) } else { array.as_dtype(dtype) }
}
