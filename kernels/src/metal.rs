//! The GPU kernels on Apple's GPUs.

use crate::gpu::{Gpu, Training, mixer_launch, recurrence_launch};
use crate::mlx::custom_kernel::metal;

/// Metal. The kernels are written in its language.
pub(crate) static METAL: Gpu = Gpu {
    name: "Metal",
    dialect: "",
    mixer: mixer_launch,
    matmul: None,
    fused: None,
    rows: None,
    dequantizes_from: usize::MAX,
    available: metal::available,
    run: metal::run,
    // Not measured.
    replays_steps: false,
    training: &TRAINING,
};

static TRAINING: Training = Training {
    name: "Metal with gradients",
    gpu: &METAL,
    run: |launch, inputs| METAL.outputs(launch, inputs),
    recurrence: recurrence_launch,
};
