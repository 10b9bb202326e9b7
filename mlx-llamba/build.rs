//! Finds apps that lack the patch of `mlx-sys` and says so, before the stock package fails in its own
//! words: it needs Apple's frameworks.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let Some(lock) = lock() else { return };
    println!("cargo::rerun-if-changed={}", lock.display());
    if !std::fs::read_to_string(&lock).is_ok_and(|text| has_stock_mlx_sys(&text)) {
        return;
    }
    let advice = format!(
        "Add to the Cargo.toml of the app: [patch.crates-io] mlx-sys = {{ git = \"{}\" }}, with the \
         rev of mlx-llamba",
        env!("CARGO_PKG_REPOSITORY")
    );
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        println!(
            "cargo::warning=the mlx-sys of the registry compiles MLX from source, with CMake and \
             Xcode. {advice}, to use a prebuilt MLX"
        );
    } else {
        println!("cargo::error=the mlx-sys of the registry is for macOS only");
        println!("cargo::error={advice}");
    }
}

/// Finds the lock file of the build: above the target directory, above the directory where cargo was
/// called, or above this package.
fn lock() -> Option<PathBuf> {
    let above = |variable| {
        let start = env::var_os(variable)?;
        Path::new(&start).ancestors().map(|dir| dir.join("Cargo.lock")).find(|file| file.is_file())
    };
    ["OUT_DIR", "PWD", "CARGO_MANIFEST_DIR"].into_iter().find_map(above)
}

fn has_stock_mlx_sys(lock: &str) -> bool {
    lock.split("[[package]]").any(|package| {
        package.contains("\nname = \"mlx-sys\"\n") && package.contains("\nsource = \"registry+")
    })
}
