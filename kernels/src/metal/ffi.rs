//! The calls into MLX that run a custom Metal kernel.
//!
//! What `mlx_rs::fast::MetalKernel` does, which exists only with the feature `metal`: so that one
//! code builds the same graph everywhere. Without Metal a kernel cannot run, but it can stand in a
//! graph while MLX records that graph for export.

use std::ffi::CString;
use std::ptr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use super::launch::{Argument, Launch, Source};

/// A kernel object of MLX.
pub(super) struct Kernel(mlx_sys::mlx_fast_metal_kernel);

impl Kernel {
    pub(super) fn new(source: &Source) -> Result<Self> {
        // The first call of `mlx-rs` installs an error handler that does not end the process.
        mlx_rs::memory::active_memory()?;
        let (name, body, header) =
            (c_string(source.name)?, c_string(&source.body())?, c_string(&source.header())?);
        let (inputs, outputs) = (Names::new(source.inputs)?, Names::new(source.outputs)?);
        // SAFETY: all handles and strings live for the call; MLX copies them.
        let kernel = Self(unsafe {
            mlx_sys::mlx_fast_metal_kernel_new(
                name.as_ptr(),
                inputs.0,
                outputs.0,
                body.as_ptr(),
                header.as_ptr(),
                true,
                false,
            )
        });
        if kernel.0.ctx.is_null() {
            return Err(Exception::custom(format!("MLX does not take the kernel {}", source.name)));
        }
        Ok(kernel)
    }

    /// Puts a launch of the kernel into MLX's graph.
    ///
    /// # Safety
    /// For inputs of these shapes and dtypes the kernel must stay inside its arrays, write all of
    /// every output, and no input.
    pub(super) unsafe fn apply(&self, launch: &Launch, inputs: &[&Array]) -> Result<Vec<Array>> {
        let config = Config::new(launch)?;
        // SAFETY: the handles are of live arrays, of which the vector keeps its own references.
        let inputs = List(unsafe {
            let handles: Vec<_> = inputs.iter().map(|array| array.as_ptr()).collect();
            mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len())
        });
        // SAFETY: takes nothing and returns an empty vector, freed when the list is dropped.
        let mut outputs = List(unsafe { mlx_sys::mlx_vector_array_new() });
        // SAFETY: all handles live for the call; what the kernel does is the caller's promise.
        let mut call = |stream| unsafe {
            mlx_sys::mlx_fast_metal_kernel_apply(&mut outputs.0, self.0, inputs.0, config.0, stream)
        };
        let what = launch.source.name;
        let status = if available()? {
            let stream = Stream::thread_local_or_gpu();
            call(stream.as_ptr())
        } else {
            PLACEHOLDER.with(|stream| call(stream.stream()))
        };
        check(what, status)?;
        // SAFETY: the vector is valid.
        let len = unsafe { mlx_sys::mlx_vector_array_size(outputs.0) };
        (0..len)
            .map(|i| {
                // SAFETY: takes nothing and returns an empty handle.
                let mut array = unsafe { mlx_sys::mlx_array_new() };
                // SAFETY: the vector is valid and `i` below its length.
                check(what, unsafe { mlx_sys::mlx_vector_array_get(&mut array, outputs.0, i) })?;
                // SAFETY: MLX has put a valid, owned array into the handle.
                Ok(unsafe { Array::from_ptr(array) })
            })
            .collect()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_fast_metal_kernel_free(self.0) };
    }
}

/// Grid, template arguments and outputs in MLX's form.
struct Config(mlx_sys::mlx_fast_metal_kernel_config);

impl Config {
    fn new(launch: &Launch) -> Result<Self> {
        let what = launch.source.name;
        // SAFETY: takes nothing; the handle is freed when the value is dropped.
        let config = Self(unsafe { mlx_sys::mlx_fast_metal_kernel_config_new() });
        for output in &launch.outputs {
            // SAFETY: the configuration is valid and the shape has the length that is passed.
            check(what, unsafe {
                mlx_sys::mlx_fast_metal_kernel_config_add_output_arg(
                    config.0,
                    output.shape.as_ptr(),
                    output.shape.len(),
                    output.dtype.into(),
                )
            })?;
        }
        let ((x, y, z), (tx, ty, tz)) = (launch.grid, launch.threadgroup);
        // SAFETY: the configuration is valid.
        check(what, unsafe { mlx_sys::mlx_fast_metal_kernel_config_set_grid(config.0, x, y, z) })?;
        // SAFETY: the configuration is valid.
        check(what, unsafe {
            mlx_sys::mlx_fast_metal_kernel_config_set_thread_group(config.0, tx, ty, tz)
        })?;
        for (name, argument) in &launch.template {
            let name = c_string(name)?;
            // SAFETY: the configuration is valid and the name a string of C, which MLX copies.
            check(what, unsafe {
                use mlx_sys::{
                    mlx_fast_metal_kernel_config_add_template_arg_bool as add_bool,
                    mlx_fast_metal_kernel_config_add_template_arg_dtype as add_dtype,
                    mlx_fast_metal_kernel_config_add_template_arg_int as add_int,
                };
                match *argument {
                    Argument::Dtype(dtype) => add_dtype(config.0, name.as_ptr(), dtype.into()),
                    Argument::Int(value) => add_int(config.0, name.as_ptr(), value),
                    Argument::Bool(value) => add_bool(config.0, name.as_ptr(), value),
                }
            })?;
        }
        Ok(config)
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_fast_metal_kernel_config_free(self.0) };
    }
}

/// An owned list of arrays.
struct List(mlx_sys::mlx_vector_array);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the vector is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

/// An owned list of names.
struct Names(mlx_sys::mlx_vector_string);

impl Names {
    fn new(names: &[&str]) -> Result<Self> {
        let names: Vec<CString> = names.iter().map(|name| c_string(name)).collect::<Result<_>>()?;
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the pointers are of live strings, which MLX copies.
        Ok(Self(unsafe {
            mlx_sys::mlx_vector_string_new_data(pointers.as_mut_ptr(), pointers.len())
        }))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: the vector is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_vector_string_free(self.0) };
    }
}

/// A stream of the GPU on a machine that has none. MLX makes no such stream, except one that would
/// be made per thread when it is used; nothing uses it.
struct Placeholder(mlx_sys::mlx_stream_thread_local);

thread_local! {
    static PLACEHOLDER: Placeholder = Placeholder::new();
}

impl Placeholder {
    fn new() -> Self {
        // SAFETY: the device is freed once, after the call that reads it.
        unsafe {
            let gpu = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
            let stream = mlx_sys::mlx_stream_thread_local_new(gpu);
            mlx_sys::mlx_device_free(gpu);
            Self(stream)
        }
    }

    /// A thread's stream is a stream in MLX (a class derived from it that adds nothing).
    fn stream(&self) -> mlx_sys::mlx_stream {
        mlx_sys::mlx_stream { ctx: self.0.ctx }
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_stream_thread_local_free(self.0) };
    }
}

/// True if MLX has a Metal device here.
pub(crate) fn available() -> Result<bool> {
    let mut available = false;
    // SAFETY: `available` is a valid place to write to.
    let status = unsafe { mlx_sys::mlx_metal_is_available(ptr::from_mut(&mut available)) };
    check("mlx_metal_is_available", status)?;
    Ok(available)
}

fn check(what: &str, status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Exception::custom(format!("MLX does not take {what} (status {status})")))
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Exception::custom(error.to_string()))
}
