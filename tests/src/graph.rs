//! Builds and inspects graphs of MLX.

use std::ffi::{c_int, c_void};

use mlx_rs::Array;

unsafe extern "C" {
    fn graph_while_exporting(build: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> c_int;
    fn graph_scans(
        outputs: *const *const c_void,
        count: usize,
        scans: *mut usize,
        unsafe_scans: *mut usize,
    );
}

/// Counts the scans (cumulative sums and the like) in the graph of `outputs`, as (all, unsafe). An
/// unsafe one runs over an axis that is not the last, or over an input that may not be contiguous.
pub fn scans(outputs: &[Array]) -> (usize, usize) {
    let handles: Vec<_> = outputs.iter().map(|array| array.as_ptr().ctx.cast_const()).collect();
    let (mut all, mut not_safe) = (0, 0);
    // SAFETY: the handles are of live arrays, as many as the length says; both counts are places
    // to write to.
    unsafe { graph_scans(handles.as_ptr(), handles.len(), &mut all, &mut not_safe) };
    (all, not_safe)
}

/// Operations that only return a view of their input, or launch nothing.
pub fn is_view(operation: &str) -> bool {
    matches!(
        operation,
        "Broadcast"
            | "ExpandDims"
            | "Flatten"
            | "Reshape"
            | "Slice"
            | "Split"
            | "Squeeze"
            | "StopGradient"
            | "Transpose"
            | "Unflatten"
    )
}

/// Runs `build` while MLX records for export, so that graphs with Metal kernels can be built on a
/// machine without Metal.
pub fn while_exporting<T>(build: impl FnOnce() -> T) -> T {
    struct Call<F, T> {
        build: Option<F>,
        result: Option<std::thread::Result<T>>,
    }
    unsafe extern "C" fn call<F: FnOnce() -> T, T>(data: *mut c_void) {
        // SAFETY: `data` is the `Call` below, which nothing else uses during the call.
        let call = unsafe { &mut *data.cast::<Call<F, T>>() };
        let build = call.build.take().expect("called once");
        // A panic must not cross C++.
        call.result = Some(std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)));
    }
    fn function<F: FnOnce() -> T, T>(_: &Call<F, T>) -> unsafe extern "C" fn(*mut c_void) {
        call::<F, T>
    }
    let mut data = Call { build: Some(build), result: None };
    let function = function(&data);
    // SAFETY: the function receives the data it expects, which outlives the call.
    let status = unsafe { graph_while_exporting(function, (&raw mut data).cast()) };
    match data.result {
        Some(Ok(result)) => {
            assert_eq!(status, 0, "MLX failed after the graph was built");
            result
        }
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => panic!("MLX did not trace the function"),
    }
}
