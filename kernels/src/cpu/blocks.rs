//! All blocks of a model as one operation.

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

use super::{matmul, raw};
use crate::{Activations, BlockArgs, BlocksArgs, LinearArgs, MixerState, MixerWeights, Weight};

/// Implements [`Backend::blocks`](crate::Backend::blocks) for float32 activations and every matrix that
/// the CPU kernels read.
pub(super) fn blocks(
    args: &BlocksArgs<'_>,
    activations: Activations,
) -> Result<Option<(Array, Vec<MixerState>)>> {
    let ragged = args.lengths.map_or(Dtype::Int32, Array::dtype);
    let takes = is_float32(args.x) && is_float32(args.final_norm.0) && ragged == Dtype::Int32;
    if !takes || args.blocks.is_empty() || !args.blocks.iter().all(takes_block) {
        return Ok(None);
    }
    let mut outputs = raw::blocks(args, activations == Activations::Int8)?.into_iter();
    let Some(normed) = outputs.next() else { return Ok(None) };
    let mut states = Vec::with_capacity(args.blocks.len());
    while let (Some(conv), Some(ssm)) = (outputs.next(), outputs.next()) {
        states.push(MixerState { conv, ssm });
    }
    Ok(Some((normed, states)))
}

fn takes_block(block: &BlockArgs<'_>) -> bool {
    let MixerWeights { conv_weight, conv_bias, z_bias, D } = block.mixer;
    let floats =
        [block.mixer_norm, block.mlp_norm, conv_weight, D, &block.state.conv, &block.state.ssm];
    let linears = [block.in_proj, block.out_proj, block.gate, block.down];
    floats.into_iter().chain(conv_bias).chain(z_bias).all(is_float32)
        && linears.iter().chain(&block.A_log_proj).chain(&block.up).all(takes_linear)
}

fn takes_linear(linear: &LinearArgs<'_>) -> bool {
    linear.bias.is_none_or(is_float32)
        && match linear.weight {
            Weight::Dense(weight) => matmul::is_float(weight),
            // Those of 4 and 8 bits are read packed.
            Weight::Quantized(weight) => {
                matmul::supports(&weight.scheme).is_ok() && !matches!(weight.scheme.bits, 4 | 8)
            }
            Weight::Packed(_) => true,
        }
}

fn is_float32(array: &Array) -> bool {
    array.dtype() == Dtype::Float32
}
