//! Writes into the command where the dynamic loader finds libmlx: `../lib` as in the archives that
//! `scripts/package` makes, and the copy it was built with, for running it from the target
//! directory. The stock mlx-sys links MLX statically and reports no library directory.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MLX_LLAMBA_RELOCATABLE");
    let Ok(built_with) = env::var("DEP_MLX_LIB") else {
        return;
    };
    let rpath = |dir: &str| println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{dir}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        rpath("@loader_path/../lib");
    } else {
        // The old kind of entry also holds for the libraries that libmlx and OpenBLAS need.
        println!("cargo::rustc-link-arg-bins=-Wl,--disable-new-dtags");
        rpath("$ORIGIN/../lib");
    }
    if env::var_os("MLX_LLAMBA_RELOCATABLE").is_none() {
        rpath(&built_with);
        if let Ok(cuda) = env::var("DEP_MLX_CUDA") {
            println!("cargo::rustc-env=MLX_LLAMBA_CUDA_BUILT={cuda}");
        }
    }
}
