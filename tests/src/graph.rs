//! The operations of a lazy graph, to count them.

use std::ffi::{c_char, c_int, c_void};

use mlx_llamba::Array;

unsafe extern "C" {
    fn graph_names(
        outputs: *const *const c_void,
        count: usize,
        text: *mut c_char,
        capacity: usize,
    ) -> usize;
    fn graph_while_exporting(build: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> c_int;
}

/// Names of all operations that the arrays wait for, each once, inputs first.
pub fn operations(outputs: &[&Array]) -> Vec<String> {
    let handles: Vec<*const c_void> =
        outputs.iter().map(|array| array.as_ptr().ctx.cast_const()).collect();
    let mut text = vec![0u8; 1 << 20];
    // SAFETY: a handle of MLX's C interface points to an array, which lives as long as the call;
    // the text has the length that is passed.
    let len = unsafe {
        graph_names(handles.as_ptr(), handles.len(), text.as_mut_ptr().cast(), text.len())
    };
    assert!(len <= text.len(), "{len} bytes of names");
    String::from_utf8_lossy(&text[..len]).lines().map(str::to_owned).collect()
}

/// Operations that only give another view of their input, or nothing to launch at all.
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

/// Runs `build` while MLX records for export: then graphs with Metal kernels can be built on a
/// machine without Metal.
pub fn while_exporting<T>(build: impl FnOnce() -> T) -> T {
    struct Call<F, T> {
        build: Option<F>,
        result: Option<std::thread::Result<T>>,
    }
    unsafe extern "C" fn call<F: FnOnce() -> T, T>(data: *mut c_void) {
        // SAFETY: `data` is the `Call` below, which nobody else uses meanwhile.
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
    // SAFETY: the function gets the data it is made for, for the time of the call.
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
