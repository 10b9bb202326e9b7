//! Initial decays.

use mlx_llamba::Config;
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{concatenate, expand_dims, mean_axes, sum_axis};
use mlx_rs::{Array, Dtype};

use super::parameters::{get, rows};
use crate::{Parameters, Result};

/// Changes the rows of in_proj that give `A_log` so that head `i` of every layer has the half-life
/// `half_lives[i]` in tokens, on average over some texts. Other heads keep theirs.
///
/// `hidden[l]` (b, t, d) is the input of layer `l` for these texts, such as a teacher's trace. A
/// projection without biases gives `A_log` near 0, a half-life of one token; but its input has a mean
/// `m`, along which a row can carry a constant: `w + (A_log - w . m) m / |m|^2`. Lazy.
///
/// # Errors
/// [`mlx_llamba::Error::Tensors`], which names a missing parameter; errors of MLX.
pub fn set_half_lives(
    config: &Config,
    parameters: &mut Parameters,
    hidden: &[Array],
    half_lives: &[f32],
) -> Result<()> {
    let dims = config.dims();
    // sigmoid(-A_log)^t = 1/2
    let wanted: Vec<f32> =
        half_lives.iter().take(dims.h).map(|t| (0.5f32.powf(-1.0 / t) - 1.0).ln()).collect();
    let count = wanted.len() as i32;
    if count == 0 {
        return Ok(());
    }
    let wanted = Array::from_slice(&wanted, &[count, 1]); // (count, 1)
    for (i, x) in hidden.iter().take(config.n_layer).enumerate() {
        let layer = format!("backbone.layers.{i}");
        let (name, first) = match config.split_a_log {
            true => (format!("{layer}.mixer.A_log_proj.weight"), 0),
            false => {
                (format!("{layer}.mixer.in_proj.weight"), (dims.in_proj_dim() - dims.h) as i32)
            }
        };
        let norm = get(parameters, &format!("{layer}.input_layernorm.weight"))?;
        let u = rms_norm(x.as_dtype(Dtype::Float32)?, Some(norm), 1e-5)?; // (b, t, d)
        let m = expand_dims(&mean_axes(&u, &[0, 1], None)?, 0)?; // (1, d)
        let all = get(parameters, &name)?;
        let below = first + count;
        let w = rows(all, first, count)?; // (count, d)
        let along = sum_axis(w.multiply(&m)?, -1, true)?; // (count, 1)
        let length = sum_axis(m.square()?, -1, true)?; // (1, 1)
        let w = w.add(wanted.subtract(along)?.divide(length)?.multiply(&m)?)?;
        let made =
            concatenate(&[&rows(all, 0, first)?, &w, &rows(all, below, all.dim(0) - below)?], 0)?;
        parameters.insert(name, made);
    }
    Ok(())
}
