//! Properties of the GPU, as MLX knows them.

use std::ffi::CStr;

use super::c_string;
use super::handles::{Device, DeviceInfo};

/// Returns a number that MLX's information about the first GPU holds under `key`, if there is one.
pub(crate) fn gpu_property(key: &str) -> Option<usize> {
    let (info, key) = (gpu_info()?, c_string(key).ok()?);
    let mut value = 0;
    // SAFETY: the handle and the string are valid, and `value` is a place to write to.
    let found =
        unsafe { mlx_sys::mlx_device_info_get_size(&raw mut value, info.0, key.as_ptr()) } == 0;
    found.then_some(value)
}

/// Returns the bytes of memory that macOS recommends its GPU to use at most; `None` elsewhere, and
/// without a GPU.
pub fn gpu_memory() -> Option<u64> {
    gpu_property("max_recommended_working_set_size").map(|bytes| bytes as u64)
}

/// Returns the name of the first GPU, if there is one.
pub fn gpu_name() -> Option<String> {
    let info = gpu_info()?;
    let mut text = std::ptr::null();
    let key = c"device_name";
    // SAFETY: the handle and the string are valid, and `text` is a place to write to.
    let found =
        unsafe { mlx_sys::mlx_device_info_get_string(&raw mut text, info.0, key.as_ptr()) } == 0;
    if !found || text.is_null() {
        return None;
    }
    // SAFETY: a text that ends with 0 and lives as long as the handle.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

fn gpu_info() -> Option<DeviceInfo> {
    super::install_error_handler().ok()?;
    // SAFETY: takes numbers; the handle it returns is freed when the value is dropped.
    let gpu = Device(unsafe { mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0) });
    let mut info = DeviceInfo::empty();
    // SAFETY: both handles are valid and the first is a place to write to.
    let known = unsafe { mlx_sys::mlx_device_info_get(&raw mut info.0, gpu.0) } == 0;
    known.then_some(info)
}
