//! Errors of calls into MLX.

use std::ffi::CString;

use mlx_rs::error::Exception;

/// A result whose error is MLX's where no other is named.
pub(crate) type Result<T, E = Exception> = std::result::Result<T, E>;

/// Installs `mlx-rs`'s error handler, so that a failing call returns a status: MLX's own handler
/// ends the process. Every call of this folder that can fail comes after it.
pub(crate) fn install_error_handler() -> Result<()> {
    // Any call of `mlx-rs` does it, once for the process; this one is cheap.
    mlx_rs::memory::active_memory().map(drop)
}

/// Returns the message of an exception, without the places in source files that it names.
#[must_use]
pub fn reason(exception: &Exception) -> String {
    let what = exception.what();
    let what = what.rsplit_once(" at mlx/c/").map_or(what, |(what, _)| what);
    match what {
        "std::bad_alloc" => "out of memory".to_owned(),
        "Resource temporarily unavailable" => "the system refused a thread".to_owned(),
        _ => what.to_owned(),
    }
}

/// Turns the status of a call of mlx-c into a result.
pub(crate) fn check(call: &str, status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Exception::custom(format!("{call} failed with status {status}")))
}

/// Returns a text as mlx-c takes it.
pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Exception::custom(error.to_string()))
}
