//! The device on which operations run.

use mlx_rs::error::Exception;
use mlx_rs::{Device, DeviceType, Stream, thread_local_default_stream, with_stream};

use super::status::{Result, check, install_error_handler};

/// Returns the kind of device on which operations built now on this thread will run: that of
/// [`on_device`], else the default device of the process.
///
/// # Errors
/// MLX's own.
pub fn current_device() -> Result<DeviceType> {
    install_error_handler()?;
    let Some(stream) = thread_local_default_stream() else {
        return Device::try_default()?.get_type();
    };
    let mut kind = mlx_sys::mlx_device_type__MLX_CPU;
    // SAFETY: `stream` is alive; the device is owned here, filled in by one call, read by the
    // next, and freed once; `kind` is valid to write to.
    let status = unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let status = mlx_sys::mlx_stream_get_device(&raw mut device, stream.as_ptr())
            | mlx_sys::mlx_device_get_type(&raw mut kind, device);
        mlx_sys::mlx_device_free(device);
        status
    };
    check("mlx_stream_get_device", status)?;
    let gpu = kind == mlx_sys::mlx_device_type__MLX_GPU;
    Ok(if gpu { DeviceType::Gpu } else { DeviceType::Cpu })
}

/// Returns true if MLX can compute on such a device here.
///
/// # Errors
/// MLX's own.
pub fn is_available(device: DeviceType) -> Result<bool> {
    install_error_handler()?;
    let mut available = false;
    // SAFETY: the device is owned here and freed once; `available` is valid to write to.
    let status = unsafe {
        let device = mlx_sys::mlx_device_new_type(device.into(), 0);
        let status = mlx_sys::mlx_device_is_available(&raw mut available, device);
        mlx_sys::mlx_device_free(device);
        status
    };
    check("mlx_device_is_available", status)?;
    Ok(available)
}

/// Runs `f`, whose operations are for `device`, whatever the default device of the process is.
///
/// # Errors
/// MLX's own if there is no such device; those of `f`.
pub fn on_device<T, E: From<Exception>>(
    device: DeviceType,
    f: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    install_error_handler()?;
    // The default stream of the device belongs to the thread: it cannot be kept with a model.
    let stream = Stream::try_default_on_device(&Device::new(device, 0))?;
    with_stream(&stream, f)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn operations_are_for_the_device_in_scope() {
        assert!(is_available(DeviceType::Cpu).unwrap());
        assert!(thread_local_default_stream().is_none());
        let inside = on_device(DeviceType::Cpu, || {
            assert!(thread_local_default_stream().is_some());
            current_device()
        });
        assert!(matches!(inside, Ok(DeviceType::Cpu)));
        assert!(thread_local_default_stream().is_none());
        let gpu = on_device(DeviceType::Gpu, current_device);
        match is_available(DeviceType::Gpu).unwrap() {
            true => assert!(matches!(gpu, Ok(DeviceType::Gpu))),
            false => assert!(gpu.is_err()),
        }
    }
}
