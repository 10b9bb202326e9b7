//! The operations of a GPU that have gradients: kernels where there are some, else plain operations.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::elementwise::{
    add_rms_norm_with_gradient, rms_norm_with_gradient, swiglu_with_gradient,
};
use super::mixer_gradient::mixer_with_gradients;
use super::{
    ChooseRecurrence, Gpu, Run, adamw, cross_entropy, distances, or_plain, sum_of_squares,
};
use crate::adamw::{AdamWResult, AdamWStep};
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::fallback::PLAIN;
use crate::metal::METAL;
use crate::mixer::{Mixed, MixerArgs, MixerInput};
use crate::mlx::{Result, with_gradient};
use crate::operations::{Operations, Plain};
use crate::{Backend, QuantizationError, Weight, plain};

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

/// Returns the differentiable back end of a GPU whose launches `run` takes, those of recurrences chosen by
/// `recurrence`: for tests, where an emulator takes them.
pub fn training_backend(run: Run, recurrence: ChooseRecurrence) -> Backend {
    let training = Training { name: "emulated with gradients", gpu: &METAL, run, recurrence };
    Backend::of(Box::leak(Box::new(training)))
}

/// Computes `x (.., in) -> x W^T (.., out)`. The gradient with respect to the matrix comes with its rows one after
/// the other, as kernels and the optimizer read it; MLX's own comes by columns, and would be turned.
fn dense_matmul(x: &Array, weight: &Array) -> Result<Array> {
    let outputs = with_gradient(
        |inputs: &[Array]| Ok::<_, Exception>(vec![inputs[0].matmul(inputs[1].t())?]),
        |inputs: &[Array], d: &[Array], _: &[Array]| {
            let (x, weight) = (&inputs[0], &inputs[1]);
            let d = d[0].reshape(&[-1, weight.dim(0)])?; // (m, out)
            let by_weight = d.t().matmul(x.reshape(&[-1, weight.dim(1)])?)?;
            Ok(vec![d.matmul(weight)?.reshape(x.shape())?, by_weight])
        },
        &[x.clone(), weight.clone()],
    )?;
    outputs.into_iter().next().ok_or_else(|| Exception::custom("a product without a result"))
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

    fn takes_padding(&self) -> bool {
        true
    }

    fn differentiable(&self) -> &'static dyn Operations {
        self.gpu.training
    }

    fn adamw(&self, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult> {
        or_plain("AdamW", adamw(self.run, arrays, how), || crate::adamw::adamw(arrays, how))
    }

    fn distances(&self, x: &Array, y: &Array, target: &Array) -> Result<Array> {
        or_plain("distances", distances(self.run, x, y, target), || plain::distances(x, y, target))
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

    fn matmul(&self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        match weight {
            Weight::Dense(weight) => Ok(dense_matmul(x, weight)?),
            _ => plain::matmul(x, weight),
        }
    }

    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        let MixerArgs { input, state, weights, dims, activation } = args;
        let how = (self.run, self.recurrence);
        let kernel = mixer_with_gradients(how, input, state, weights, dims, activation);
        or_plain("mixer with gradients", kernel, || {
            let input = &MixerInput { rows: &input.trimmed(dims)?, ..*input };
            plain::mixer(MixerArgs { input, ..args }, self.functions())
        })
    }

    fn narrows(&self) -> bool {
        true
    }

    fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32, narrow: Dtype) -> Result<Array> {
        let kernel = rms_norm_with_gradient(self.run, x, weight, epsilon, narrow);
        or_plain("norm with gradients", kernel, || Plain.rms_norm(x, weight, epsilon, narrow))
    }

    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
        narrow: Dtype,
    ) -> Result<(Array, Array)> {
        let kernel = add_rms_norm_with_gradient(self.run, [x, y], weight, epsilon, narrow);
        or_plain("residual norm with gradients", kernel, || {
            plain::add_rms_norm(x, y, weight, epsilon, narrow)
        })
    }

    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        or_plain("swiglu with gradients", swiglu_with_gradient(self.run, gate_up), || {
            plain::swiglu(gate_up)
        })
    }
}
