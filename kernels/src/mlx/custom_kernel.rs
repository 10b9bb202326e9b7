//! Custom GPU kernels as operations of MLX's graph.
//!
//! MLX has one interface for Metal and one for CUDA, alike in everything but their names: a macro
//! makes [`metal`] and [`cuda`] from these. `mlx_rs::fast::MetalKernel` does the same, but
//! exists only with the feature `metal`; here one code builds the same graph everywhere. Without
//! the device a kernel cannot run, but it can be part of a graph that MLX records for export.

use mlx_rs::Stream;
use mlx_sys::mlx_stream;

/// Defines `available` and `run` of one interface over the functions imported beside it.
///
/// `$option` is a function that gives the last argument of `new` for a launch.
macro_rules! interface {
    ($option:expr) => {
        use std::cell::RefCell;
        use std::rc::Rc;

        use mlx_rs::Array;
        use mlx_rs::error::{Exception, Result};

        use crate::mlx::handles::{Arrays, Strings, many};
        use crate::mlx::launch::{Argument, Launch, Source, code};
        use crate::mlx::{c_string, check, install_error_handler};

        /// Returns true if MLX has such a device here.
        pub(crate) fn available() -> Result<bool> {
            install_error_handler()?;
            let mut available = false;
            // SAFETY: `available` is a valid place to write to.
            check("is_available", unsafe { is_available(&raw mut available) })?;
            Ok(available)
        }

        /// Puts a launch into MLX's graph and returns its outputs. The kernel's header follows
        /// `prelude`.
        ///
        /// # Safety
        /// For inputs of these shapes and dtypes the kernel must stay inside its arrays, write all
        /// of every output, and no input.
        pub(crate) unsafe fn run(
            launch: &Launch,
            prelude: &str,
            inputs: &[&Array],
        ) -> Result<Vec<Array>> {
            let (kernel, config) = (kernel(launch, prelude)?, Config::new(launch)?);
            let inputs = Arrays::of(inputs.iter().copied());
            let available = available()?;
            many(launch.source.name, |outputs| {
                super::on_gpu(available, |stream| {
                    // SAFETY: all handles live for the call; the caller vouches for the kernel.
                    unsafe { apply(outputs, kernel.0, inputs.0, config.0, stream) }
                })
            })
        }

        /// A kernel object of MLX.
        struct Kernel(RawKernel);

        /// Returns the kernel object of a source, made once per thread: MLX's handles stay on
        /// their thread.
        fn kernel(launch: &Launch, prelude: &str) -> Result<Rc<Kernel>> {
            type Key = (&'static str, usize);
            thread_local! {
                static KERNELS: RefCell<Vec<(Key, Rc<Kernel>)>> = const { RefCell::new(Vec::new()) };
            }
            let key = (launch.source.name, launch.dynamic_bytes);
            KERNELS.with_borrow_mut(|kernels| {
                if let Some((_, kernel)) = kernels.iter().find(|(found, _)| *found == key) {
                    return Ok(Rc::clone(kernel));
                }
                let option = $option(launch);
                let kernel = Rc::new(Kernel::new(launch.source, prelude, option)?);
                kernels.push((key, Rc::clone(&kernel)));
                Ok(kernel)
            })
        }

        impl Kernel {
            fn new(source: &Source, prelude: &str, option: RawOption) -> Result<Self> {
                install_error_handler()?;
                let (name, body) = (c_string(source.name)?, c_string(&source.body())?);
                let header = c_string(&(code(prelude) + &source.header()))?;
                let (inputs, outputs) = (Strings::of(source.inputs)?, Strings::of(source.outputs)?);
                // SAFETY: all handles and strings live for the call; MLX copies them.
                let kernel = Self(unsafe {
                    new(
                        name.as_ptr(),
                        inputs.0,
                        outputs.0,
                        body.as_ptr(),
                        header.as_ptr(),
                        true, // inputs are made row contiguous
                        option,
                    )
                });
                if kernel.0.ctx.is_null() {
                    let message = format!("MLX does not take the kernel {}", source.name);
                    return Err(Exception::custom(message));
                }
                Ok(kernel)
            }
        }

        impl Drop for Kernel {
            fn drop(&mut self) {
                // SAFETY: the handle is owned by `self` and freed once.
                unsafe { free(self.0) };
            }
        }

        /// Grid, template arguments and outputs in MLX's form.
        struct Config(RawConfig);

        impl Config {
            fn new(launch: &Launch) -> Result<Self> {
                let what = launch.source.name;
                // SAFETY: takes nothing; the handle is freed when the value is dropped.
                let config = Self(unsafe { config_new() });
                for output in &launch.outputs {
                    let (shape, dtype) = (&output.shape, output.dtype.into());
                    // SAFETY: the configuration is valid, the shape has the length that is passed.
                    check(what, unsafe {
                        add_output(config.0, shape.as_ptr(), shape.len(), dtype)
                    })?;
                }
                let ((x, y, z), (tx, ty, tz)) = (launch.grid, launch.threadgroup);
                // SAFETY: the configuration is valid.
                check(what, unsafe { set_grid(config.0, x, y, z) })?;
                // SAFETY: the configuration is valid.
                check(what, unsafe { set_thread_group(config.0, tx, ty, tz) })?;
                for (name, argument) in &launch.template {
                    let name = c_string(name)?;
                    // SAFETY: the configuration is valid, and MLX copies the name.
                    check(what, unsafe {
                        match *argument {
                            Argument::Dtype(dtype) => {
                                add_dtype(config.0, name.as_ptr(), dtype.into())
                            }
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
                unsafe { config_free(self.0) };
            }
        }
    };
}

/// Kernels for Apple's GPUs.
pub(crate) mod metal {
    use mlx_sys::{
        mlx_fast_metal_kernel as RawKernel, mlx_fast_metal_kernel_apply as apply,
        mlx_fast_metal_kernel_config as RawConfig,
        mlx_fast_metal_kernel_config_add_output_arg as add_output,
        mlx_fast_metal_kernel_config_add_template_arg_bool as add_bool,
        mlx_fast_metal_kernel_config_add_template_arg_dtype as add_dtype,
        mlx_fast_metal_kernel_config_add_template_arg_int as add_int,
        mlx_fast_metal_kernel_config_free as config_free,
        mlx_fast_metal_kernel_config_new as config_new,
        mlx_fast_metal_kernel_config_set_grid as set_grid,
        mlx_fast_metal_kernel_config_set_thread_group as set_thread_group,
        mlx_fast_metal_kernel_free as free, mlx_fast_metal_kernel_new as new,
        mlx_metal_is_available as is_available,
    };

    /// True if outputs are updated atomically.
    type RawOption = bool;
    interface!(|_: &Launch| false);
}

/// Kernels for NVIDIA's GPUs.
pub(crate) mod cuda {
    use mlx_sys::{
        mlx_cuda_is_available as is_available, mlx_fast_cuda_kernel as RawKernel,
        mlx_fast_cuda_kernel_apply as apply, mlx_fast_cuda_kernel_config as RawConfig,
        mlx_fast_cuda_kernel_config_add_output_arg as add_output,
        mlx_fast_cuda_kernel_config_add_template_arg_bool as add_bool,
        mlx_fast_cuda_kernel_config_add_template_arg_dtype as add_dtype,
        mlx_fast_cuda_kernel_config_add_template_arg_int as add_int,
        mlx_fast_cuda_kernel_config_free as config_free,
        mlx_fast_cuda_kernel_config_new as config_new,
        mlx_fast_cuda_kernel_config_set_grid as set_grid,
        mlx_fast_cuda_kernel_config_set_thread_group as set_thread_group,
        mlx_fast_cuda_kernel_free as free, mlx_fast_cuda_kernel_new as new,
    };

    /// Bytes of shared memory that the launch gives.
    type RawOption = i32;
    interface!(|launch: &Launch| launch.dynamic_bytes as i32);
}

/// Runs `call` with this thread's GPU stream, or a placeholder where there is no such device.
fn on_gpu(available: bool, call: impl FnOnce(mlx_stream) -> i32) -> i32 {
    if available {
        let stream = Stream::thread_local_or_gpu();
        call(stream.as_ptr())
    } else {
        PLACEHOLDER.with(|stream| call(stream.stream()))
    }
}

/// A GPU stream on a machine without a GPU. MLX makes no such stream, except one that would be
/// made per thread when it is used; nothing uses it.
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

    /// Returns the handle as a stream: in MLX a thread's stream is a class derived from it that
    /// adds nothing.
    fn stream(&self) -> mlx_stream {
        mlx_stream { ctx: self.0.ctx }
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_stream_thread_local_free(self.0) };
    }
}
