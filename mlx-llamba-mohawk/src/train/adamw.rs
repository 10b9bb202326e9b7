//! AdamW: gradients in, parameters changed.
//!
//! mlx-rs has an AdamW, without the correction of the moments' bias. Over a hundred thousand steps
//! that matters little; a stage of a small distillation has hundreds, and there it bends the
//! schedule: with the defaults here the first step would be 0.45 times as long as it should be, and
//! those around the twentieth 1.1 times. Its moments also live under names of its own, where our
//! checkpoints need them by parameter. Source: Loshchilov and Hutter (arXiv 1711.05101), algorithm
//! 2, with epsilon where PyTorch has it.

use mlx_rs::Array;

use super::Moments;
use crate::Result;

/// Settings that stay the same for a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Part of a matrix that a step with learning rate 1 takes away.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// As MOHAWK has it: betas 0.9 and 0.95, epsilon 1e-8, weight decay 0.1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    /// One step of one parameter; lazy.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | parameter, gradient | same | float32 |
    /// | moments | that shape; empty before the first step | float32 |
    ///
    /// `step` counts from 1. Weights decay where they have two axes or more: not norms, biases
    /// and D.
    ///
    /// # Errors
    /// [`crate::Error::Mlx`] if shapes differ.
    pub fn update(
        &self,
        parameter: &Array,
        gradient: &Array,
        moments: Option<&Moments>,
        (step, lr): (u64, f64),
    ) -> Result<(Array, Moments)> {
        let scalar = |value: f64| Array::from_f32(value as f32);
        let mean = |old: Option<&Array>, new: &Array, beta: f64| -> Result<Array> {
            let new = new.multiply(scalar(1.0 - beta))?;
            Ok(match old {
                Some(old) => old.multiply(scalar(beta))?.add(new)?,
                None => new,
            })
        };
        let m = mean(moments.map(|old| &old.m), gradient, self.beta1)?;
        let v = mean(moments.map(|old| &old.v), &gradient.square()?, self.beta2)?;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let root = v.sqrt()?.divide(scalar(correction(self.beta2).sqrt()))?;
        let change = m.divide(root.add(scalar(self.epsilon))?)?;
        let change = change.multiply(scalar(lr / correction(self.beta1)))?;
        let decays = self.weight_decay != 0.0 && parameter.ndim() >= 2;
        let kept = if decays {
            parameter.multiply(scalar(1.0 - lr * self.weight_decay))?
        } else {
            parameter.clone()
        };
        Ok((kept.subtract(change)?, Moments { m, v }))
    }
}
