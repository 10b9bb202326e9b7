//! The directory that a finished model is moved to.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_llamba::files::atomic;

use crate::Result;
use crate::error::io;

/// Refuses an output that has a model already, which the new one would replace.
pub(super) fn expect_no_model(output: &Path, resume: bool) -> Result<()> {
    let taken = |name: &str| output.join(name).exists();
    if !resume && (taken("config.json") || taken("model.safetensors")) {
        return Err(mlx_llamba::Error::OutputExists { path: output.to_owned() }.into());
    }
    Ok(())
}

/// Gives `save` a directory to write a model to, and then moves its files to `output`,
/// `config.json` last: a directory without one is no model.
pub(super) fn publish(output: &Path, save: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let made = save(&output.join(".model"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&made).map_err(io("list", &made))? {
        names.push(entry.map_err(io("list", &made))?.file_name());
    }
    names.sort_by_key(|name| name == "config.json");
    for name in names {
        let path = output.join(&name);
        fs::rename(made.join(&name), &path).map_err(io("write", &path))?;
    }
    fs::remove_dir(&made).map_err(io("remove", &made))?;
    atomic::sync(output).map_err(io("write", output))
}
