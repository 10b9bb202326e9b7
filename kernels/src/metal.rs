//! The GPU kernels on Apple's GPUs.

use crate::gpu::{Gpu, mixer_launch};
use crate::mlx::custom_kernel::metal;

/// Metal. The kernels are written in its language.
pub(crate) static METAL: Gpu = Gpu {
    name: "Metal",
    dialect: "",
    mixer: mixer_launch,
    matmul: None,
    available: metal::available,
    run: metal::run,
};
