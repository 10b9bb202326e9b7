//! The AdamW optimizer.
//!
//! The AdamW of mlx-rs does not correct the bias of the moments. That matters little over a hundred
//! thousand steps, but a stage of a small distillation has hundreds: with the defaults here the
//! first step would be 0.45 times as long as it should be, and those around the twentieth 1.1
//! times. Its moments also have names of its own, while checkpoints need them by parameter. Source:
//! Loshchilov and Hutter (arXiv 1711.05101), algorithm 2, with epsilon where PyTorch has it.

use mlx_llamba_kernels::{AdamWResult, AdamWStep, Backend};
use mlx_rs::Array;
use mlx_rs::ops::zeros_like;

use super::Moments;
use crate::Result;

/// Constants of the optimizer during a stage.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// The fraction of a matrix that a step with learning rate 1 subtracts.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// The values of MOHAWK: betas 0.9 and 0.95, epsilon 1e-8, weight decay 0.1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    /// Computes one step of one parameter; lazy.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | parameter, gradient | same | float32 |
    /// | scale | () | float32 |
    /// | moments | that shape; empty before the first step | float32 |
    ///
    /// The gradient is multiplied by `scale` first. `step` counts from 1. Only parameters with two or
    /// more axes decay: norms, biases and D do not. With a momentum `ahead` the result has the mean
    /// gradient as it would be after another one like this.
    ///
    /// # Errors
    /// [`crate::Error::Mlx`] if shapes differ.
    pub fn update(
        &self,
        backend: Backend,
        parameter: &Array,
        (gradient, scale): (&Array, &Array),
        moments: Option<&Moments>,
        (step, lr): (u64, f64),
        ahead: Option<f32>,
    ) -> Result<AdamWResult> {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let decays = self.weight_decay != 0.0 && parameter.ndim() >= 2;
        let how = AdamWStep {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            root: correction(self.beta2).sqrt().recip() as f32,
            epsilon: self.epsilon as f32,
            rate: (lr / correction(self.beta1)) as f32,
            kept: if decays { (1.0 - lr * self.weight_decay) as f32 } else { 1.0 },
            ahead,
        };
        let zeros;
        let (m, v) = match moments {
            Some(old) => (&old.m, &old.v),
            None => {
                zeros = zeros_like(parameter)?;
                (&zeros, &zeros)
            }
        };
        let arrays = [parameter, gradient, m, v, scale];
        Ok(backend.adamw(arrays, how).map_err(mlx_llamba::Error::from)?)
    }
}
