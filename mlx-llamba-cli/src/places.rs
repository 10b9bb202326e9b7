//! Where a person's own files are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// What a saved session's name ends with.
pub(crate) const EXTENSION: &str = "session";

/// `$MLX_LLAMBA_DATA`, or `mlx-llamba` in the directory that the system has for such files.
pub(crate) fn data() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(place) = variable("MLX_LLAMBA_DATA") {
        return Ok(place.into());
    }
    let home = || {
        let home = variable("HOME").context("HOME is not set: set MLX_LLAMBA_DATA to a directory");
        home.map(PathBuf::from)
    };
    let place = match variable("XDG_DATA_HOME") {
        Some(place) => place.into(),
        None if cfg!(target_os = "macos") => home()?.join("Library/Application Support"),
        None => home()?.join(".local/share"),
    };
    Ok(place.join("mlx-llamba"))
}

/// The directory of saved sessions.
pub(crate) fn sessions() -> Result<PathBuf> {
    Ok(data()?.join("sessions"))
}

/// The file of a session: a path as it is, or a name in `directory`.
pub(crate) fn session(name: &str, directory: Option<&Path>) -> Result<PathBuf> {
    let path = Path::new(name);
    let ours = path.extension().is_some_and(|extension| extension == EXTENSION);
    if name.contains(std::path::is_separator) || (ours && directory.is_none()) {
        return Ok(path.to_owned());
    }
    if name.is_empty() || name.starts_with('.') || name.chars().any(char::is_control) {
        bail!("{name:?} is no name for a session");
    }
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => sessions()?,
    };
    Ok(directory.join(if ours { name.to_owned() } else { format!("{name}.{EXTENSION}") }))
}
