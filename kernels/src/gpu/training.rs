//! The operations of a GPU that have gradients: kernels where there are some, else plain operations.

use mlx_rs::fast::rms_norm;
use mlx_rs::{Array, Dtype};

use super::elementwise::{rms_norm_with_gradient, swiglu_with_gradient};
use super::mixer_gradient::mixer_with_gradients;
use super::{ChooseRecurrence, Gpu, Run, adamw, cross_entropy, or_plain, sum_of_squares};
use crate::adamw::{AdamWResult, AdamWStep};
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::fallback::PLAIN;
use crate::mixer::{Mixed, MixerArgs};
use crate::mlx::Result;
use crate::operations::Operations;
use crate::plain;

/// The differentiable operations of a GPU.
#[derive(Debug)]
pub(crate) struct Training {
    /// Name of these operations.
    pub(crate) name: &'static str,
    pub(crate) gpu: &'static Gpu,
    /// [`Gpu::outputs`] of `gpu`.
    pub(crate) run: Run,
    /// Chooses the launch of a recurrence.
    pub(crate) recurrence: ChooseRecurrence,
}

impl Operations for Training {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        format!("{PLAIN} with {} kernels", self.gpu.name)
    }

    fn is_for_current_device(&self) -> Result<bool> {
        self.gpu.is_for_current_device()
    }

    fn takes(&self, _: Dtype) -> Result<(), String> {
        Ok(())
    }

    fn rows_multiple(&self) -> usize {
        // The vectors of tensor cores' loads, in elements of two bytes.
        8
    }

    fn differentiable(&self) -> &'static dyn Operations {
        self.gpu.training
    }

    fn adamw(&self, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult> {
        or_plain("AdamW", adamw(self.run, arrays, how), || crate::adamw::adamw(arrays, how))
    }

    fn sum_of_squares(&self, arrays: &[&Array]) -> Result<Array> {
        or_plain("sums of squares", sum_of_squares(self.run, arrays), || {
            crate::adamw::sum_of_squares(arrays)
        })
    }

    fn cross_entropy(
        &self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy> {
        or_plain("cross entropy", cross_entropy(self.run, logits, teacher, how), || {
            crate::cross_entropy::cross_entropy(logits, teacher, how)
        })
    }

    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        let MixerArgs { input, state, weights, dims, activation } = args;
        let how = (self.run, self.recurrence);
        let kernel = mixer_with_gradients(how, input, state, weights, dims, activation);
        or_plain("mixer with gradients", kernel, || plain::mixer(args, self.functions()))
    }

    fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
        let kernel = rms_norm_with_gradient(self.run, x, weight, epsilon);
        or_plain("norm with gradients", kernel, || rms_norm(x, Some(weight), epsilon))
    }

    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
    ) -> Result<(Array, Array)> {
        let sum = x.add(y)?;
        let normed = self.rms_norm(&sum, weight, epsilon)?;
        Ok((sum, normed))
    }

    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        or_plain("swiglu with gradients", swiglu_with_gradient(self.run, gate_up), || {
            plain::swiglu(gate_up)
        })
    }
}
