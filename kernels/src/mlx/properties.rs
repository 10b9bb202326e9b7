//! Properties of the GPU, as MLX knows them.

use super::c_string;
use super::handles::{Device, DeviceInfo};

/// Returns a number that MLX's information about the first GPU holds under `key`, if there is one.
pub(crate) fn gpu_property(key: &str) -> Option<usize> {
    super::install_error_handler().ok()?;
    let key = c_string(key).ok()?;
    // SAFETY: takes numbers; the handle it returns is freed when the value is dropped.
    let gpu = Device(unsafe { mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0) });
    let (mut info, mut value) = (DeviceInfo::empty(), 0);
    // SAFETY: both handles are valid and the first is a place to write to.
    let known = unsafe { mlx_sys::mlx_device_info_get(&raw mut info.0, gpu.0) } == 0;
    // SAFETY: the handles and the string are valid, and `value` is a place to write to.
    let found = known
        && unsafe { mlx_sys::mlx_device_info_get_size(&raw mut value, info.0, key.as_ptr()) } == 0;
    found.then_some(value)
}
