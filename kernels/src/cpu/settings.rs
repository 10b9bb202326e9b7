//! The environment variables of the CPU kernels.

use super::raw;

/// A variable with a value that is impossible here.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is {found:?}, expected {expected}")]
pub struct SettingError {
    variable: &'static str,
    found: String,
    expected: String,
}

/// Checks `MLX_LLAMBA_SIMD` and `MLX_LLAMBA_THREADS`: `cpu/levels.cpp` and `cpu/pool.cpp`, which
/// read them, would ignore a bad value.
///
/// # Errors
/// The first variable that does not name an instruction set of this machine, or a number of
/// threads.
pub(crate) fn check() -> Result<(), SettingError> {
    let setting =
        |variable, expected: String, possible: &dyn Fn(&str) -> bool| match std::env::var_os(
            variable,
        ) {
            Some(value) if !value.is_empty() && !value.to_str().is_some_and(possible) => {
                Err(SettingError {
                    variable,
                    found: value.to_string_lossy().into_owned(),
                    expected,
                })
            }
            _ => Ok(()),
        };
    let levels: Vec<&str> =
        ["baseline", "avx2", "avx512"].into_iter().filter(|name| raw::has_simd(name)).collect();
    let simd = format!("an instruction set of this machine: {}", levels.join(", "));
    setting("MLX_LLAMBA_SIMD", simd, &|name| levels.contains(&name))?;
    let threads = "a number of threads from 1 to 256".to_owned();
    setting("MLX_LLAMBA_THREADS", threads, &|count| {
        count.parse().is_ok_and(|count: u16| (1..=256).contains(&count))
    })
}
