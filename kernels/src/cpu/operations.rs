//! The CPU kernels as a back end.

use mlx_rs::{Array, DeviceType, Dtype};

use super::{elementwise, matmul, raw};
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::elementwise::Functions;
use crate::fallback::{PLAIN, log_fallback};
use crate::mixer::{Mixed, MixerArgs};
use crate::mlx::{Result, current_device};
use crate::operations::{Activations, Operations};
use crate::{
    AdamWResult, AdamWStep, BlocksArgs, Kernel, Kernels, MixerState, QuantizationError, Weight,
    plain,
};

/// The CPU kernels with their settings.
#[derive(Debug)]
pub(crate) struct Cpu {
    name: &'static str,
    activations: Activations,
    /// Kernels without gradients are left out.
    differentiable: bool,
}

/// Activations in float32.
pub(crate) static CPU: Cpu =
    Cpu { name: "CPU", activations: Activations::Float32, differentiable: false };

/// Activations in int8 where there are such products.
pub(crate) static CPU_INT8: Cpu =
    Cpu { name: "CPU int8", activations: Activations::Int8, differentiable: false };

/// Kernels with gradients; the other operations are plain.
static DIFFERENTIABLE: Cpu =
    Cpu { name: "CPU differentiable", activations: Activations::Float32, differentiable: true };

fn are_float<const N: usize>(arrays: [&Array; N]) -> bool {
    arrays.iter().all(|array| array.dtype() == Dtype::Float32)
}

impl Operations for Cpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        let what = if self.differentiable { format!("{PLAIN} with ") } else { String::new() };
        let int8 = match self.activations {
            Activations::Float32 => "",
            Activations::Int8 => ", int8 activations",
        };
        let threads = match raw::threads() {
            1 => "1 thread".to_owned(),
            n => format!("{n} threads"),
        };
        format!("{what}CPU kernels ({}, {threads}{int8})", raw::simd())
    }

    fn is_for_current_device(&self) -> Result<bool> {
        Ok(matches!(current_device()?, DeviceType::Cpu))
    }

    fn takes(&self, dtype: Dtype) -> Result<(), String> {
        match dtype {
            Dtype::Float32 => Ok(()),
            _ => Err("the CPU kernels take float32 activations only".into()),
        }
    }

    fn kernels(&self) -> Kernels {
        use Kernel::{MixerScan, MixerStep, MixerSteps};
        let products = [Kernel::MatmulRow, Kernel::MatmulRows];
        let rows = [Kernel::Swiglu, Kernel::RmsNorm, Kernel::AddRmsNorm];
        let mixer = [MixerStep, MixerSteps, MixerScan];
        products.into_iter().chain(rows).chain(mixer).collect()
    }

    fn activations(&self) -> Activations {
        self.activations
    }

    fn with_int8(&self) -> Option<&'static dyn Operations> {
        Some(&CPU_INT8)
    }

    fn differentiable(&self) -> &'static dyn Operations {
        &DIFFERENTIABLE
    }

    fn reads_stored_floats(&self) -> bool {
        !self.differentiable
    }

    fn allocates_ahead(&self) -> bool {
        !self.differentiable
    }

    fn arrange(&self, weight: Weight) -> Result<Weight> {
        match weight {
            Weight::Quantized(weight) if !self.differentiable => matmul::arrange(weight),
            Weight::Packed(packed) if self.differentiable => {
                Ok(Weight::Quantized(packed.unpacked()?))
            }
            stored => Ok(stored),
        }
    }

    fn blocks(&self, args: &BlocksArgs<'_>) -> Result<Option<(Array, Vec<MixerState>)>> {
        if self.differentiable { Ok(None) } else { super::blocks::blocks(args, self.activations) }
    }

    fn functions(&self) -> Functions {
        if self.differentiable {
            Functions { exp: elementwise::exp, gate: elementwise::gate }
        } else {
            Functions::MLX
        }
    }

    fn matmul(&self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        let supported = match weight {
            Weight::Dense(_) => Ok(()),
            _ if self.differentiable => Err("codes have no gradient"),
            Weight::Quantized(weight) => matmul::supports(&weight.scheme),
            Weight::Packed(_) => Ok(()),
        };
        match supported {
            Ok(()) => Ok(matmul::matmul_with(x, weight, self.activations)?),
            Err(reason) => {
                log_fallback("matrix multiplications", reason);
                plain::matmul(x, weight)
            }
        }
    }

    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        if !self.differentiable {
            if args.input.starts.is_none() {
                return super::mixer::mixer(args);
            }
            log_fallback("mixer", "the CPU kernels take no document starts");
        }
        plain::mixer(args, self.functions())
    }

    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        elementwise::swiglu(gate_up)
    }

    fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32, _: Dtype) -> Result<Array> {
        elementwise::rms_norm(x, weight, epsilon)
    }

    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
        _: Dtype,
    ) -> Result<(Array, Array)> {
        elementwise::add_rms_norm(x, y, weight, epsilon)
    }

    fn softmax(&self, x: &Array, mask: Option<&Array>) -> Result<Array> {
        if are_float([x]) {
            elementwise::softmax(&plain::masked(x, mask)?)
        } else {
            plain::softmax(x, mask)
        }
    }

    fn cross_entropy(
        &self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy> {
        if are_float([logits, teacher.unwrap_or(logits)]) {
            super::cross_entropy::cross_entropy(logits, teacher, how)
        } else {
            crate::cross_entropy::cross_entropy(logits, teacher, how)
        }
    }

    fn adamw(&self, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult> {
        if !are_float(arrays) {
            return crate::adamw::adamw(arrays, how);
        }
        let [parameter, m, v] = raw::adamw(arrays, how)?;
        let ahead = crate::adamw::ahead(arrays, &m, how)?;
        Ok(AdamWResult { parameter, m, v, ahead })
    }
}
