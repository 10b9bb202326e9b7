//! All calls into MLX that `mlx-rs` does not offer, behind safe types.
//!
//! | file | calls |
//! |---|---|
//! | `handles.rs` | owned handles of mlx-c: arrays, lists, closures |
//! | `device.rs` | the device of a thread's operations |
//! | `closure.rs`, `transforms.rs` | functions with other gradients than MLX would compute |
//! | `quantized.rs` | quantization in every mode, and order between operations that share no data |
//! | `launch.rs`, `custom_kernel.rs` | custom GPU kernels |
//! | `lazy.rs` | arrays whose elements are read when they are needed |
//! | `runtime.rs` | the version and the files of the loaded MLX |

mod closure;
pub(crate) mod custom_kernel;
mod device;
mod handles;
pub(crate) mod launch;
mod lazy;
pub(crate) mod quantized;
mod runtime;
mod transforms;

use std::ffi::CString;

use mlx_rs::error::Exception;

pub use closure::failure;
pub use device::{current_device, is_available, on_device};
pub use lazy::{Bytes, lazy_array};
pub use runtime::{Blas, Runtime};

pub use transforms::{recompute, with_gradient};

/// A result whose error is MLX's where no other is named.
pub(crate) type Result<T, E = Exception> = std::result::Result<T, E>;

/// Installs `mlx-rs`'s error handler, so that a failing call returns a status: MLX's own handler
/// ends the process. Every call of this folder that can fail comes after it.
pub(crate) fn install_error_handler() -> Result<()> {
    // Any call of `mlx-rs` does it, once for the process; this one is cheap.
    mlx_rs::memory::active_memory().map(drop)
}

/// Turns the status of a call of mlx-c into a result.
pub(crate) fn check(call: &str, status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Exception::custom(format!("{call} failed with status {status}")))
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Exception::custom(error.to_string()))
}
