//! Rust functions as closures of MLX.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_sys::mlx_vector_array;

use super::handles::{Arrays, Closure, GradientClosure, many};

thread_local! {
    /// The error of a closure that failed: MLX only passes on that it did.
    static FAILURE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Returns the error of type `E` that a closure left on this thread, if one failed since the last
/// call. Where MLX calls it while it computes gradients, whoever gave the closure does not see it
/// fail.
pub fn failure<E: 'static>() -> Option<E> {
    FAILURE.take()?.downcast().ok().map(|error| *error)
}

/// Returns the error that a closure left, else `error`.
pub(super) fn failure_or<E: From<Exception> + 'static>(error: Exception) -> E {
    failure().unwrap_or_else(|| error.into())
}

impl Closure {
    /// A closure that calls `f` with its inputs.
    pub(super) fn new<F, E>(f: F) -> Self
    where
        F: Fn(&[Array]) -> Result<Vec<Array>, E> + Send + 'static,
        E: From<Exception> + 'static,
    {
        let payload = Box::into_raw(Box::new(Mutex::new(f))).cast();
        // SAFETY: `payload` is given away here and freed by `free::<F>` when MLX drops its last
        // copy of the closure, also if this call fails; `call::<F, E>` takes just this payload.
        Self(unsafe {
            mlx_sys::mlx_closure_new_func_payload(Some(call::<F, E>), payload, Some(free::<F>))
        })
    }

    /// Calls the closure.
    pub(super) fn apply<E: From<Exception> + 'static>(
        &self,
        inputs: &[Array],
    ) -> Result<Vec<Array>, E> {
        let inputs = Arrays::of(inputs);
        // SAFETY: the three handles are valid, and MLX copies what it keeps of them.
        many("mlx_closure_apply", |out| unsafe {
            mlx_sys::mlx_closure_apply(out, self.0, inputs.0)
        })
        .map_err(failure_or)
    }
}

impl GradientClosure {
    /// A closure that calls `f` with inputs, gradients with respect to the outputs, and outputs.
    pub(super) fn new<F, E>(f: F) -> Self
    where
        F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>, E> + Send + 'static,
        E: From<Exception> + 'static,
    {
        let payload = Box::into_raw(Box::new(Mutex::new(f))).cast();
        // SAFETY: as in `Closure::new`.
        Self(unsafe {
            mlx_sys::mlx_closure_custom_new_func_payload(
                Some(call_gradient::<F, E>),
                payload,
                Some(free::<F>),
            )
        })
    }
}

extern "C" fn call<F, E>(
    out: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    f: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>, E> + Send + 'static,
    E: From<Exception> + 'static,
{
    // SAFETY: MLX passes the payload that it was given, before `free`; calls only share it.
    let f = unsafe { &*f.cast::<Mutex<F>>() };
    answer(out, || locked(f)(&borrowed(inputs)?))
}

extern "C" fn call_gradient<F, E>(
    out: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    gradients: mlx_vector_array,
    outputs: mlx_vector_array,
    f: *mut c_void,
) -> c_int
where
    F: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>, E> + Send + 'static,
    E: From<Exception> + 'static,
{
    // SAFETY: as in `call`.
    let f = unsafe { &*f.cast::<Mutex<F>>() };
    answer(out, || locked(f)(&borrowed(inputs)?, &borrowed(gradients)?, &borrowed(outputs)?))
}

/// Waits for calls of other threads: arrays that depend on a closure share it, also those that were
/// sent to other threads, and what it captures, such as arrays, need not be `Sync`.
fn locked<F>(f: &Mutex<F>) -> MutexGuard<'_, F> {
    f.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the arrays of a list that MLX owns.
fn borrowed(list: mlx_vector_array) -> Result<Vec<Array>, Exception> {
    ManuallyDrop::new(Arrays(list)).to_vec()
}

/// Gives MLX what `f` returns, or keeps its error for [`failure`]. A panic must not reach C++.
fn answer<E: From<Exception> + 'static>(
    out: *mut mlx_vector_array,
    f: impl FnOnce() -> Result<Vec<Array>, E>,
) -> c_int {
    let error: E = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(results)) => {
            let mut results = Arrays::of(&results);
            // SAFETY: MLX gives a place that holds an empty handle. The handle moved there is MLX's
            // to free, and the empty one is freed here.
            unsafe { std::ptr::swap(out, &raw mut results.0) };
            return 0;
        }
        Ok(Err(error)) => error,
        Err(_) => Exception::custom("a closure panicked").into(),
    };
    FAILURE.set(Some(Box::new(error)));
    1
}

extern "C" fn free<F>(f: *mut c_void) {
    // A panic must not reach C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: MLX calls this once, with the pointer that came from `Box::into_raw`, when no
        // copy of the closure is left.
        drop(unsafe { Box::from_raw(f.cast::<Mutex<F>>()) });
    }));
}
