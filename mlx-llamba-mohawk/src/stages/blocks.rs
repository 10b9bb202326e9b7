//! A student from tokens to hidden states, with or without keeping the activations of its blocks.

use mlx_llamba::Config;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::row_layout::RowLayout;
use mlx_llamba_kernels::MixerState;
use mlx_llamba_kernels::mlx::recompute;
use mlx_rs::Array;

use super::{alone, borders, of_layer, student};
use crate::{Batch, Parameters, Result};

/// Hidden states after the final norm, (b, l, d).
///
/// With `again`, a gradient keeps only the input of each block and recomputes the rest: memory for
/// the activations of one block and `n_layer` residual streams, for a third more work.
pub(super) fn hidden(
    config: &Config,
    parameters: &Parameters,
    batch: &Batch,
    again: bool,
    products: Dtype,
) -> Result<Array> {
    let model = student(config, parameters, products)?;
    let b = batch.tokens.dim(0) as usize;
    if !again {
        let (hidden, _) = model.hidden_within(&batch.tokens, borders(batch), &model.state(b)?)?;
        return Ok(hidden);
    }
    let mut x = model.embed(&batch.tokens)?; // (b, l, d)
    for i in 0..config.n_layer {
        x = block(config, parameters, batch, i, x, products)?;
    }
    let norm = super::named(parameters, "backbone.final_layernorm.weight")?;
    Ok(Backend::PLAIN.rms_norm(&x, norm, config.norm_epsilon as f32)?)
}

/// Computes block `i` alone: (b, l, d) to (b, l, d).
fn block(
    config: &Config,
    parameters: &Parameters,
    batch: &Batch,
    i: usize,
    x: Array,
    products: Dtype,
) -> Result<Array> {
    let (config, mut rest) = alone(config, parameters, i)?;
    let names = of_layer(&config, 0, &[""]);
    let own = names.iter().filter_map(|name| rest.remove(name));
    let inputs: Vec<Array> = std::iter::once(x).chain(own).collect();
    let starts = batch.starts.clone();
    let b = batch.tokens.dim(0) as usize;
    let forward = move |inputs: &[Array]| -> Result<Vec<Array>> {
        let mut parameters = rest.clone();
        parameters.extend(names.iter().cloned().zip(inputs[1..].iter().cloned()));
        let model = student(&config, &parameters, products)?;
        let state = MixerState::zeros(b, config.dims(), Dtype::Float32)?;
        let borders = RowLayout { lengths: None, starts: starts.as_ref() };
        Ok(vec![model.block(0, &inputs[0], borders, &state)?.0])
    };
    Ok(recompute(forward, &inputs)?.swap_remove(0))
}
