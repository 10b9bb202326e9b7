//! Random initial parameters of a Llama.

use mlx_rs::{Array, random};

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::parameters::Parameters;

/// Standard deviation of the matrices, as in Llama's and GPT-2's training.
const DEVIATION: f32 = 0.02;

/// Returns random float32 parameters: matrices normal with a deviation of 0.02 (those that write to
/// the residual stream divided by `sqrt(2 n_layer)`), norms 1, biases 0. Equal seeds give equal
/// parameters.
///
/// Source: GPT-2 (Radford et al. 2019), section 2.3.
///
/// # Errors
/// Those of MLX.
pub fn init(config: &LlamaConfig, seed: u64) -> Result<Parameters> {
    let mut key = random::key(seed)?;
    let residual = DEVIATION / (2.0 * config.num_hidden_layers as f32).sqrt();
    let mut parameters = Parameters::new();
    for (name, shape) in config.tensors() {
        let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
        let array = if name.ends_with("norm.weight") {
            Array::ones::<f32>(&shape)?
        } else if name.ends_with(".bias") {
            Array::zeros::<f32>(&shape)?
        } else {
            let writes = name.contains("o_proj") || name.contains("down_proj");
            let (this, rest) = random::split(&key, 2)?;
            key = rest;
            let deviation = if writes { residual } else { DEVIATION };
            random::normal::<f32>(&shape, None, deviation, &this)?
        };
        parameters.insert(name, array);
    }
    Ok(parameters)
}
