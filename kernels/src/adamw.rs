//! A step of AdamW.

use mlx_rs::Array;
use mlx_rs::error::Result;

/// `m' = beta1 m + (1 - beta1) g`, `v' = beta2 v + (1 - beta2) g^2` and
/// `p' = kept p - rate m' / (root sqrt(v') + epsilon)`, where `g` is the gradient times `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Factor of the gradient.
    pub scale: f32,
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
}

/// Implements [`Backend::adamw`](crate::Backend::adamw) in plain MLX operations.
pub(crate) fn adamw([p, g, m, v]: [&Array; 4], how: AdamWStep) -> Result<[Array; 3]> {
    let scalar = Array::from_f32;
    let g = g.multiply(scalar(how.scale))?;
    let m = m.multiply(scalar(how.beta1))?.add(g.multiply(scalar(1.0 - how.beta1))?)?;
    let v = v.multiply(scalar(how.beta2))?.add(g.square()?.multiply(scalar(1.0 - how.beta2))?)?;
    let root = v.sqrt()?.multiply(scalar(how.root))?.add(scalar(how.epsilon))?;
    let change = m.multiply(scalar(how.rate))?.divide(root)?;
    Ok([p.multiply(scalar(how.kept))?.subtract(change)?, m, v])
}
