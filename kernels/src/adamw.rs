//! A step of AdamW, and the sum of squares by which gradients are clipped.

use mlx_rs::Array;
use mlx_rs::error::Result;

/// `m' = beta1 m + (1 - beta1) g`, `v' = beta2 v + (1 - beta2) g^2` and
/// `p' = kept p - rate m' / (root sqrt(v') + epsilon)`, where `g` is the gradient times a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Decay of the mean gradient.
    pub beta1: f32,
    /// Decay of the mean squared gradient.
    pub beta2: f32,
    /// Factor of the root: the correction of the second moment's bias.
    pub root: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// The learning rate, with the correction of the first moment's bias.
    pub rate: f32,
    /// Factor of the parameter: what weight decay leaves of it.
    pub kept: f32,
    /// The momentum `u` of a look ahead, if one is wanted.
    pub ahead: Option<f32>,
}

/// The results of a step, all of the parameter's shape.
#[derive(Debug, Clone)]
pub struct AdamWResult {
    /// `p'`
    pub parameter: Array,
    /// `m'`
    pub m: Array,
    /// `v'`
    pub v: Array,
    /// `u m' + (1 - u) g`: the mean gradient as it would be after another one like this (Nesterov).
    pub ahead: Option<Array>,
}

/// Implements [`Backend::adamw`](crate::Backend::adamw) in plain MLX operations.
pub(crate) fn adamw(arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult> {
    let [p, g, m, v, scale] = arrays;
    let scalar = Array::from_f32;
    let g = g.multiply(scale)?;
    let m = m.multiply(scalar(how.beta1))?.add(g.multiply(scalar(1.0 - how.beta1))?)?;
    let v = v.multiply(scalar(how.beta2))?.add(g.square()?.multiply(scalar(1.0 - how.beta2))?)?;
    let root = v.sqrt()?.multiply(scalar(how.root))?.add(scalar(how.epsilon))?;
    let change = m.multiply(scalar(how.rate))?.divide(root)?;
    let parameter = p.multiply(scalar(how.kept))?.subtract(change)?;
    let ahead = ahead(arrays, &m, how)?;
    Ok(AdamWResult { parameter, m, v, ahead })
}

/// Computes [`AdamWResult::ahead`] from the new `m`.
pub(crate) fn ahead(arrays: [&Array; 5], m: &Array, how: AdamWStep) -> Result<Option<Array>> {
    let [_, g, _, _, scale] = arrays;
    let Some(u) = how.ahead else { return Ok(None) };
    let g = g.multiply(scale.multiply(Array::from_f32(1.0 - u))?)?;
    m.multiply(Array::from_f32(u))?.add(g).map(Some)
}

/// Implements [`Backend::sum_of_squares`](crate::Backend::sum_of_squares) in plain MLX operations.
pub(crate) fn sum_of_squares(arrays: &[&Array]) -> Result<Array> {
    let mut total = Array::from_f32(0.0);
    for array in arrays {
        total = total.add(array.square()?.sum(None)?)?;
    }
    Ok(total)
}
