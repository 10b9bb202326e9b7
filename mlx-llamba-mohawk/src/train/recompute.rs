//! Activations that are computed again instead of kept.
//!
//! All `unsafe` of training's transforms is here: MLX's `checkpoint` takes a C closure.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_sys::{mlx_closure, mlx_vector_array};

use crate::{Error, Result};

thread_local! {
    /// What a closure said when it failed: MLX only passes on that it did.
    static FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// The error that a closure of [`recompute`] left on this thread, if one failed since the last
/// call. While gradients are computed, it fails out of sight of whoever gave it.
pub(crate) fn failure() -> Option<Error> {
    FAILURE.take()
}

/// `f(inputs)`, but a gradient through it keeps only `inputs` and computes the rest again.
///
/// Gradients flow to `inputs` and to nothing else: an array that `f` captures is a constant, so
/// parameters must be among the inputs. `f` is called once now and once for every gradient, and
/// must give the same each time.
///
/// # Errors
/// What `f` reports; [`Error::Mlx`] if it panics.
pub fn recompute<F>(f: F, inputs: &[Array]) -> Result<Vec<Array>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
{
    // The first call of mlx-rs installs an error handler that does not end the process.
    mlx_rs::memory::active_memory()?;
    let payload = Box::into_raw(Box::new(f));
    // SAFETY: `payload` is given away here and freed by `free::<F>` when MLX drops its last copy
    // of the closure, also if this call fails; `call::<F>` is made for just this payload.
    let plain = Closure(unsafe {
        mlx_sys::mlx_closure_new_func_payload(Some(call::<F>), payload.cast(), Some(free::<F>))
    });
    // SAFETY: takes nothing and gives an empty handle, to be filled by the next call.
    let mut wrapped = Closure(unsafe { mlx_sys::mlx_closure_new() });
    // SAFETY: both handles are valid; MLX copies the first, which shares the payload.
    let status = unsafe { mlx_sys::mlx_checkpoint(&mut wrapped.0, plain.0) };
    if status != 0 {
        return Err(refused("mlx_checkpoint"));
    }
    let inputs = Vector::new(inputs)?;
    // SAFETY: takes nothing and gives an empty handle, to be filled by the next call.
    let mut outputs = Vector(unsafe { mlx_sys::mlx_vector_array_new() });
    // SAFETY: the three handles are valid, and MLX copies what it keeps of them.
    let status = unsafe { mlx_sys::mlx_closure_apply(&mut outputs.0, wrapped.0, inputs.0) };
    if status != 0 {
        return Err(refused("a recomputed block"));
    }
    values(outputs.0)
}

fn refused(what: &str) -> Error {
    failure().unwrap_or_else(|| Exception::custom(format!("MLX does not take {what}")).into())
}

/// A closure that is freed.
struct Closure(mlx_closure);

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and freed once.
        unsafe { mlx_sys::mlx_closure_free(self.0) };
    }
}

/// A list of arrays that is freed.
struct Vector(mlx_vector_array);

impl Vector {
    fn new(arrays: &[Array]) -> Result<Self> {
        // SAFETY: takes nothing and gives an owned handle.
        let mut vector = Self(unsafe { mlx_sys::mlx_vector_array_new() });
        vector.set(arrays)?;
        Ok(vector)
    }

    fn set(&mut self, arrays: &[Array]) -> Result<()> {
        let handles: Vec<_> = arrays.iter().map(Array::as_ptr).collect();
        // SAFETY: `handles` has as many valid handles as its length says; MLX copies them, which
        // shares the arrays.
        let status = unsafe {
            mlx_sys::mlx_vector_array_set_data(&mut self.0, handles.as_ptr(), handles.len())
        };
        if status == 0 { Ok(()) } else { Err(refused("a list of arrays")) }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and freed once.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

/// The arrays of a list, shared.
fn values(vector: mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the handle is valid.
    let size = unsafe { mlx_sys::mlx_vector_array_size(vector) };
    (0..size)
        .map(|i| {
            // SAFETY: takes nothing and gives an empty handle, to be filled by the next call.
            let mut array = unsafe { mlx_sys::mlx_array_new() };
            // SAFETY: both handles are valid, and `i` is below the list's size.
            let status = unsafe { mlx_sys::mlx_vector_array_get(&mut array, vector, i) };
            // SAFETY: `array` is an owned handle that is given away once.
            let array = unsafe { Array::from_ptr(array) };
            if status == 0 { Ok(array) } else { Err(refused("an array of a list")) }
        })
        .collect()
}

extern "C" fn call<F>(out: *mut mlx_vector_array, inputs: mlx_vector_array, f: *mut c_void) -> c_int
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + Send + 'static,
{
    // SAFETY: MLX passes the payload it was given, before `free`; calls only share it.
    let f = unsafe { &*f.cast::<F>() };
    let made = catch_unwind(AssertUnwindSafe(|| {
        let mut results = Vector::new(&f(&values(inputs)?)?)?;
        // SAFETY: MLX gives a place for a handle, and holds an empty one there; the handle moved
        // there is MLX's to free, and the empty one is freed here.
        unsafe { std::ptr::swap(out, &mut results.0) };
        Ok(())
    }));
    let failed = match made {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error,
        Err(_) => Exception::custom("a recomputed block panicked").into(),
    };
    FAILURE.set(Some(failed));
    1
}

extern "C" fn free<F>(f: *mut c_void) {
    // A panic must not reach C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: MLX calls this once, with the pointer that came from `Box::into_raw`, when no
        // copy of the closure is left.
        drop(unsafe { Box::from_raw(f.cast::<F>()) });
    }));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use mlx_rs::transforms::value_and_grad_with_argnums;

    use super::*;

    fn block(x: &[Array]) -> Result<Vec<Array>> {
        let y = x[0].matmul(&x[1])?.sin()?; // (2, 2)
        Ok(vec![y.matmul(&x[1])?.exp()?])
    }

    #[test]
    fn same_value_and_gradients_as_without() {
        let x = Array::from_slice(&[0.1f32, -0.2, 0.3, 0.4], &[2, 2]);
        let w = Array::from_slice(&[0.5f32, 0.6, -0.7, 0.8], &[2, 2]);
        let run = |f: fn(&[Array]) -> Result<Vec<Array>>| {
            let loss = |x: &[Array]| {
                let y = f(x).map_err(|error| Exception::custom(error.to_string()))?;
                Ok(vec![y[0].sum(None)?])
            };
            let (value, gradients) =
                value_and_grad_with_argnums(loss, &[0, 1][..])(&[x.clone(), w.clone()]).unwrap();
            let all = value.iter().chain(&gradients);
            all.flat_map(|a| mlx_llamba::floats(a).unwrap()).collect::<Vec<f32>>()
        };
        let (expected, found) = (run(block), run(|x| recompute(block, x)));
        assert_eq!(expected.len(), 9);
        assert_eq!(found, expected);
        assert!(expected[1..].iter().all(|g| g.abs() > 1e-3), "{expected:?}");
    }

    #[test]
    fn failures_are_passed_on() {
        let x = [Array::from_f32(1.0)];
        let error = recompute(|_| Err(Exception::custom("no such thing").into()), &x).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let error = recompute(|_| panic!("on purpose"), &x).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(failure().is_none());
    }
}
