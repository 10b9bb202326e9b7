//! The MLX that this process has loaded.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use super::handles::Text;

/// The library whose matrix multiplications MLX's CPU operations call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blas {
    /// Apple's Accelerate, part of macOS.
    Accelerate,
    /// OpenBLAS, from this file.
    OpenBlas(PathBuf),
    /// The reference implementation that comes with MLX for Linux: correct and slow.
    Reference,
}

/// The MLX of this process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Runtime {
    /// Version that the library itself reports.
    pub version: String,
    /// The loaded library, where the system lists it.
    pub library: Option<PathBuf>,
    /// MLX's compiled Metal kernels, on macOS.
    pub metallib: Option<PathBuf>,
    /// The library of its matrix multiplications.
    pub blas: Blas,
}

impl Runtime {
    /// Describes this process.
    pub fn of_process() -> Self {
        let loaded = loaded();
        let metallib = metallib();
        let beside = metallib.as_ref().map(|path| path.with_file_name("libmlx.dylib"));
        let blas = match find(&loaded, "libopenblas") {
            _ if cfg!(target_os = "macos") => Blas::Accelerate,
            Some(path) => Blas::OpenBlas(path),
            None => Blas::Reference,
        };
        let library = find(&loaded, "libmlx.").or(beside.filter(|path| path.exists()));
        Self { version: version(), library, metallib, blas }
    }
}

/// Returns the files that are mapped into this process, in the order of their addresses; none where
/// the system has no list of them.
fn loaded() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(|line| Some(line.get(line.find('/')?..)?.into())).collect()
}

fn find(loaded: &[PathBuf], begin: &str) -> Option<PathBuf> {
    let named = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))
    };
    loaded.iter().find(named).cloned()
}

fn version() -> String {
    // SAFETY: the string is valid, to be written to.
    text(|string| unsafe { mlx_sys::mlx_version(string) }).unwrap_or_else(|| "unknown".to_owned())
}

/// Asks only where Metal is: elsewhere MLX has no such file and says so through its error handler.
fn metallib() -> Option<PathBuf> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    // SAFETY: as for the version.
    let path = text(|string| unsafe { mlx_sys::mlx_metal_get_metallib_path(string) })?;
    Some(PathBuf::from(path)).filter(|path| path != Path::new(""))
}

/// Returns the text that an MLX function writes.
fn text(fill: impl FnOnce(*mut mlx_sys::mlx_string) -> i32) -> Option<String> {
    let mut text = Text::empty();
    if fill(&raw mut text.0) != 0 {
        return None;
    }
    // SAFETY: the string is valid, and its data is null or ends with a zero byte and lives as long.
    let data =
        unsafe { mlx_sys::mlx_string_data(text.0).as_ref().map(|data| CStr::from_ptr(data)) };
    data.map(|data| data.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Runtime;

    #[test]
    fn the_process_knows_its_mlx() {
        let runtime = Runtime::of_process();
        assert!(runtime.version.starts_with("0.32"), "{runtime:?}");
        #[cfg(target_os = "linux")]
        assert!(runtime.library.unwrap().ends_with("libmlx.so"));
    }
}
