//! Wheels of the Python package registry, downloaded and checked by pip.

use crate::{
    Result,
    cache::{Cache, REQUIREMENTS},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A file of the registry, pinned by `sha256`: pip refuses any other.
pub struct Wheel {
    pub package: &'static str,
    pub version: &'static str,
    /// The platform part of the file name.
    pub platform: &'static str,
    pub sha256: &'static str,
    /// The hash of its files, once they are unpacked.
    pub files: &'static str,
}

impl Wheel {
    /// Returns the directory of the unpacked wheel. With `foreign`, the wheel is for another kind of
    /// machine than this one, and pip does not check that it can run here.
    pub fn unpacked(&self, cache: &Cache, foreign: bool) -> Result<PathBuf> {
        let name = format!("{}-{}-{}", self.package, self.version, &self.sha256[..12]);
        let Self { package, version, platform, sha256, files } = self;
        let requirement = format!("{package}=={version} --hash=sha256:{sha256}\n");
        let what = format!("{package} {version}");
        cache.entry(&name, files, |dir| {
            install(dir, &requirement, &what, foreign.then_some(platform))
        })
    }
}

/// Unpacks the wheels that `requirements` pin into `dir`; `what` they are, for people. With a `platform`
/// they are those of another kind of machine.
pub fn install(dir: &Path, requirements: &str, what: &str, platform: Option<&str>) -> Result<()> {
    let file = dir.join(REQUIREMENTS);
    fs::write(&file, requirements).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--no-compile"])
        .args(["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--requirement"])
        .arg(&file)
        .arg("--target")
        .arg(dir)
        .env("PIP_USER", "0");
    if let Some(platform) = platform {
        pip.args(["--platform", platform]);
    }
    let output = pip.output().map_err(|error| {
        format!(
            "cannot run python3, which downloads {what}: {error}\n{}",
            install_hint("Python 3", "python3 python3-pip", "brew install python")
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let advice = if said.contains("No module named pip") {
        install_hint("pip", "python3-pip", "python3 -m ensurepip --user")
    } else if said.contains("DO NOT MATCH THE HASHES") {
        "The file in the registry differs from the one that this build is pinned to. Does pip use a mirror?"
            .to_owned()
    } else if said.contains("No matching distribution") {
        "Is this system older than those that the wheels are built for (Linux with glibc 2.35)? \
             Is the package registry reachable?"
            .to_owned()
    } else {
        "Is the package registry reachable? pip reads its proxy and index from pip.conf and \
             PIP_* variables."
            .to_owned()
    };
    Err(format!(
        "pip could not download {what}:\n{}\n{advice}\n\
             To build without downloading MLX, set MLX_ROOT to a directory with its include/ and lib/.",
        said.trim_end()
    ))
}

/// Says how to install something that is missing.
pub fn install_hint(what: &str, debian: &str, macos: &str) -> String {
    format!("To install {what}: `apt install {debian}` (Debian, Ubuntu) or `{macos}` (macOS).")
}
