//! The directory that a finished model is moved to.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_llamba::files::{TokenizerFiles, atomic};

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

/// Removes the model in `output`, `config.json` first: a directory without one is no model.
pub(super) fn remove_model(output: &Path) -> Result<()> {
    let entries = fs::read_dir(output).map_err(io("list", output))?;
    let weights = |name: &str| name.starts_with("model") && name.contains(".safetensors");
    let files = TokenizerFiles::READ.iter().chain(&TokenizerFiles::OTHER);
    let files: Vec<&str> = files.chain(&["README.md"]).copied().collect();
    let mut paths = vec![output.join("config.json")];
    for entry in entries {
        let path = entry.map_err(io("list", output))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == TokenizerFiles::TEMPLATES {
            fs::remove_dir_all(&path).map_err(io("remove", &path))?;
        } else if weights(&name) || files.contains(&name.as_str()) {
            paths.push(path);
        }
    }
    for path in paths.iter().filter(|path| path.exists()) {
        fs::remove_file(path).map_err(io("remove", path))?;
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
