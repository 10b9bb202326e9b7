//! Value and gradient of a part of an objective, and the norm of gradients.

use std::cell::RefCell;

use mlx_llamba_kernels::Backend;
use mlx_llamba_kernels::mlx::failure;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::minimum;
use mlx_rs::transforms::value_and_grad_with_argnums;

use crate::{Batch, Error, Objective, Parameters, Result};

/// Returns the loss of part `part` and its gradients with respect to `names`, in their order; lazy.
///
/// # Errors
/// Those of the objective; [`Error::UnknownParameter`] if `parameters` lacks a name.
pub fn value_and_gradient<O: Objective>(
    objective: &O,
    part: usize,
    names: &[String],
    parameters: &Parameters,
    batch: &Batch,
    targets: &O::Targets,
) -> Result<(Array, Vec<Array>)> {
    let trained: Vec<Array> = names
        .iter()
        .map(|name| parameters.get(name).cloned().ok_or_else(|| Error::unknown(name)))
        .collect::<Result<_>>()?;
    // MLX reports that a closure failed, but not the reason.
    let failed = RefCell::new(None);
    let loss = |traced: &[Array]| {
        let mut all = parameters.clone();
        for (name, array) in names.iter().zip(traced) {
            all.insert(name.clone(), array.clone());
        }
        match objective.loss(part, &all, batch, targets) {
            Ok(loss) => Ok(vec![loss]),
            Err(error) => {
                failed.replace(Some(error));
                Err(Exception::custom("the loss cannot be computed"))
            }
        }
    };
    let places: Vec<i32> = (0..names.len() as i32).collect();
    let result = value_and_grad_with_argnums(loss, places.as_slice())(&trained);
    match result {
        Ok((mut values, gradients)) if values.len() == 1 => Ok((values.remove(0), gradients)),
        Ok(_) => Err(Exception::custom("a loss is one scalar").into()),
        Err(error) => Err(failed.take().or_else(failure).unwrap_or(Error::Mlx(error))),
    }
}

/// Returns the Euclidean norm of all values of all arrays, a scalar; lazy.
///
/// # Errors
/// [`Error::Mlx`].
pub fn global_norm(backend: Backend, gradients: &[Array]) -> Result<Array> {
    let gradients: Vec<&Array> = gradients.iter().collect();
    Ok(backend.sum_of_squares(&gradients)?.sqrt()?)
}

/// Returns the factor, a scalar, that reduces gradients of norm `norm` to the norm `clip` at most; lazy.
///
/// # Errors
/// [`Error::Mlx`].
pub fn clip_factor(norm: &Array, clip: Option<f64>) -> Result<Array> {
    let one = Array::from_f32(1.0);
    let Some(clip) = clip else { return Ok(one) };
    // The small number as in PyTorch's clip_grad_norm_.
    let factor = Array::from_f32(clip as f32).divide(norm.add(Array::from_f32(1e-6))?)?;
    Ok(minimum(factor, one)?)
}
