//! The operations of a GPU that have gradients: plain ones around the kernel of the recurrence.

use mlx_rs::{Array, Dtype};

use super::{Gpu, Run, adamw, cross_entropy, or_plain, recurrence, sum_of_squares};
use crate::Dims;
use crate::adamw::{AdamWResult, AdamWStep};
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::elementwise::Functions;
use crate::fallback::PLAIN;
use crate::mlx::Result;
use crate::operations::Operations;
use crate::ssd;

/// The differentiable operations of a GPU.
#[derive(Debug)]
pub(crate) struct Training {
    /// Name of these operations.
    pub(crate) name: &'static str,
    pub(crate) gpu: &'static Gpu,
    /// [`Gpu::outputs`] of `gpu`.
    pub(crate) run: Run,
    /// Calls [`Training::recurrence`] of this.
    pub(crate) functions: Functions,
}

impl Training {
    /// Computes the recurrence: by kernels where they take it.
    pub(crate) fn recurrence(
        &self,
        x: &Array,
        log_a: &Array,
        [B, C]: [&Array; 2],
        H: &Array,
        starts: Option<&Array>,
        dims: Dims,
    ) -> Result<(Array, Array)> {
        let kernel = recurrence(self.run, [x, log_a, B, C, H], starts, dims);
        or_plain("recurrence", kernel, || {
            ssd::chunked(x, log_a, [B, C], H, starts, dims, Functions::MLX)
        })
    }
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

    fn functions(&self) -> Functions {
        self.functions
    }
}
