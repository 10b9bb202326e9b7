//! Directories of the user's own files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The file extension of saved sessions.
pub(crate) const EXTENSION: &str = "session";

/// Returns a variable of the environment, unless it is empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns `$MLX_LLAMBA_DATA`, or `mlx-llamba` in the system's directory for data.
pub(crate) fn data() -> Result<PathBuf> {
    match variable("MLX_LLAMBA_DATA") {
        Some(place) => Ok(place.into()),
        None => of_system("XDG_DATA_HOME", ".local/share")
            .context("HOME is not set: set MLX_LLAMBA_DATA to a directory"),
    }
}

/// Returns the directory of the configuration file.
pub(crate) fn config() -> Result<PathBuf> {
    of_system("XDG_CONFIG_HOME", ".config")
        .context("HOME is not set: set MLX_LLAMBA_CONFIG to a file")
}

/// Returns `mlx-llamba` in the directory that a variable names, or in one of the home directory.
fn of_system(name: &str, under_home: &str) -> Option<PathBuf> {
    let under_home =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { under_home };
    let place = variable(name).map(PathBuf::from);
    let place = place.or_else(|| Some(PathBuf::from(variable("HOME")?).join(under_home)))?;
    Some(place.join("mlx-llamba"))
}

/// Returns the directory of saved sessions.
pub(crate) fn sessions() -> Result<PathBuf> {
    Ok(data()?.join("sessions"))
}

/// Returns the file of a session: a path as it is, or a name in `directory`.
pub(crate) fn session(name: &str, directory: Option<&Path>) -> Result<PathBuf> {
    let path = Path::new(name);
    let ours = path.extension().is_some_and(|extension| extension == EXTENSION);
    if name.contains(std::path::is_separator) || (ours && directory.is_none()) {
        return Ok(path.to_owned());
    }
    if name.is_empty() || name.starts_with('.') || name.chars().any(char::is_control) {
        bail!("{name:?} is not a valid session name");
    }
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => sessions()?,
    };
    Ok(directory.join(if ours { name.to_owned() } else { format!("{name}.{EXTENSION}") }))
}
