//! Builds mlx-c over a prebuilt MLX and generates the bindings.
//!
//! | step | file |
//! |---|---|
//! | the target machine | `target.rs` |
//! | the directory of downloads | `cache.rs` |
//! | wheels of the Python registry, pinned by hash | `wheel.rs` |
//! | MLX itself: headers and library | `mlx.rs` |
//! | MLX's CUDA library, with the feature `cuda` | `cuda.rs` |
//! | mlx-c: sources from the Rust registry, compiled | `mlx_c.rs` |
//! | libclang and bindgen | `bindings.rs` |
//! | link flags, BLAS, `DEP_MLX_*` | `link.rs` |

mod bindings;
mod cache;
mod cuda;
mod link;
mod mlx;
mod mlx_c;
mod target;
mod wheel;

use std::{env, path::PathBuf, process::ExitCode};

/// Errors are messages: the problem, then the remedy.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=compat");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = target::Target::from_cargo()?;
    let cache = cache::Cache::open(&out, &target)?;

    let mlx = mlx::Mlx::locate(&target, &cache)?;
    let mlx_c = mlx_c::Sources::locate(&cache)?;
    let blas = link::Blas::probe(&target, &out)?;
    mlx_c.compile(&target, &mlx, &blas)?;
    bindings::generate(&mlx_c, &target, &cache, &out)?;
    if cfg!(feature = "cuda") {
        // For dependents that choose the library when they start.
        println!("cargo::metadata=cuda={}", cuda::locate(&target, &cache)?.display());
    }
    link::emit(&target, &mlx, &mlx_c, &blas, &out)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("{name} is not set; run this through cargo"))
}
