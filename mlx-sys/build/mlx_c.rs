//! mlx-c: the C interface to MLX, which the bindings declare.
//!
//! Its sources are part of the registry's `mlx-sys` package, which this package replaces. cargo fetches
//! that package and checks it against the registry's index.

use crate::{
    Result, cache::Cache, link::Blas, mlx::Mlx, target::Target, variable, wheel::install_hint,
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE_SHA256: &str = "da965f83ce211b80f9b681d9bbd6fa625fe6bb2e659ba7bc55dd95eea8d3b028";
/// The hash of the files that are taken from it.
const FILES: &str = "3a08cb0d01134962739d90e5f86f5bf80c4920c8e488cffa59726734392d4991";

const MANIFEST: &str = r#"[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[lib]
path = "fetch.rs"

[dependencies]
mlx-sys = { version = "=0.7.0", default-features = false }

[workspace]
"#;

pub struct Sources {
    /// The include directory, with `mlx/c/*.h` and `*.cpp`.
    pub root: PathBuf,
}

impl Sources {
    pub fn locate(cache: &Cache) -> Result<Self> {
        let root = cache.entry(&format!("mlx-c-0.7.0-{}", &PACKAGE_SHA256[..12]), FILES, fetch)?;
        Ok(Self { root })
    }

    /// Lists the files of `mlx/c` with this extension, in alphabetical order.
    pub fn files(&self, extension: &str) -> Result<Vec<PathBuf>> {
        let dir = self.root.join("mlx/c");
        let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let mut files: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some(OsStr::new(extension)))
            .collect();
        files.sort();
        Ok(files)
    }

    pub fn compile(&self, target: &Target, mlx: &Mlx, blas: &Blas) -> Result<()> {
        let mut build = cc::Build::new();
        // The thin wrappers are optimized in every profile, so that tests measure MLX.
        build.cpp(true).std("c++20").opt_level(2).debug(false).warnings(false);
        build.include(&self.root).flag("-isystem").flag(&mlx.include);
        // Errors name the file in which they occur: relative to mlx-c, without the build directory.
        build.flag_if_supported(format!("-ffile-prefix-map={}/=", self.root.display()));
        if !target.is_macos() {
            let compat = Path::new("compat").canonicalize().map_err(|error| error.to_string())?;
            build.flag("-include").flag(compat.join("linux.hpp"));
            // A separate archive that is linked whole, since nothing refers to it.
            let mut own = cc::Build::new();
            own.cpp(true).cargo_metadata(false).file(compat.join("linux.cpp"));
            if *blas == Blas::OpenBlas {
                own.define("MLX_LLAMBA_OPENBLAS", None);
            }
            own.try_compile("mlx_compat").map_err(|error| error.to_string())?;
        }
        build.files(self.files("cpp")?);
        build.try_compile("mlxc").map_err(|error| {
            format!(
                "mlx-c does not compile: {error}\n\
                 It needs C++20: g++ 11 or later, or clang 15 or later. CXX names another compiler."
            )
        })
    }
}

/// Returns the C++ compiler of the target, after checking that it runs.
pub fn compiler() -> Result<cc::Tool> {
    let hint = |error: String| {
        let hint = install_hint("one", "g++", "xcode-select --install");
        format!("no C++ compiler: {error}\n{hint}")
    };
    let tool = cc::Build::new()
        .cpp(true)
        .cargo_warnings(false)
        .try_get_compiler()
        .map_err(|error| hint(error.to_string()))?;
    match tool.to_command().arg("--version").output() {
        Ok(_) => Ok(tool),
        Err(error) => Err(hint(format!("{}: {error}", tool.path().display()))),
    }
}

fn fetch(dir: &Path) -> Result<()> {
    let at = |error| format!("{}: {error}", dir.display());
    let work = dir.join("work");
    fs::create_dir(&work).map_err(at)?;
    fs::write(work.join("Cargo.toml"), MANIFEST).map_err(at)?;
    fs::write(work.join("fetch.rs"), "").map_err(at)?;
    // Try without the network first: cargo may have downloaded the package before.
    if vendor(&work, true).is_err() {
        vendor(&work, false)?;
    }
    let package = work.join("vendor/mlx-sys");
    let checksum = fs::read_to_string(package.join(".cargo-checksum.json")).map_err(at)?;
    if !checksum.contains(&format!(r#""package":"{PACKAGE_SHA256}""#)) {
        return Err(format!(
            "the registry's mlx-sys 0.7.0 is not the package this build is pinned to (sha256 \
             {PACKAGE_SHA256}).\nIf cargo is configured to use a mirror, the mirror differs from crates.io."
        ));
    }
    fs::rename(package.join("src/mlx-c/mlx"), dir.join("mlx")).map_err(at)?;
    fs::rename(package.join("src/mlx-c/LICENSE"), dir.join("LICENSE")).map_err(at)?;
    fs::remove_dir_all(&work).map_err(at)
}

fn vendor(work: &Path, offline: bool) -> Result<()> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(work).args(["vendor", "--quiet", "--respect-source-config"]);
    if offline {
        cargo.arg("--offline");
    }
    let output = cargo.arg("vendor").output().map_err(|error| format!("cargo vendor: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "cargo could not fetch mlx-c, which is in the package mlx-sys 0.7.0 of the registry:\n{}\n\
         Is the registry reachable?",
        String::from_utf8_lossy(&output.stderr).trim_end()
    ))
}
