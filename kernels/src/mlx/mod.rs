//! All calls into MLX that `mlx-rs` does not offer, behind safe types.
//!
//! | file | calls |
//! |---|---|
//! | `handles.rs` | owned handles of mlx-c: arrays, lists, closures |
//! | `device.rs` | the device of a thread's operations |
//! | `closure.rs`, `transforms.rs` | functions with other gradients than MLX would compute |
//! | `compiled.rs` | functions that MLX records once and replays |
//! | `properties.rs` | properties of the GPU |
//! | `quantized.rs` | quantization in every mode, and order between operations that share no data |
//! | `launch.rs`, `custom_kernel.rs` | custom GPU kernels |
//! | `lazy.rs` | arrays whose elements are read when they are needed |
//! | `status.rs` | errors |
//! | `runtime.rs` | the version and the files of the loaded MLX |

mod closure;
mod compiled;
pub(crate) mod custom_kernel;
mod device;
mod handles;
pub(crate) mod launch;
mod lazy;
pub(crate) mod properties;
pub(crate) mod quantized;
mod runtime;
mod status;
mod transforms;

pub use closure::failure;
pub use compiled::Compiled;
pub use device::{current_device, is_available, on_device};
pub use lazy::{Bytes, lazy_array};
pub use properties::{gpu_memory, gpu_name};
pub use runtime::{Blas, Runtime};
pub use status::reason;
pub(crate) use status::{Result, c_string, check, install_error_handler};
pub use transforms::{recompute, with_gradient};
