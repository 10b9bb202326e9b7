//! Writes into the library where the dynamic loader finds libmlx: in the wheel of MLX that a Python
//! wheel depends on, beside the library, and, unless `MLX_LLAMBA_RELOCATABLE` is set, in the copy it
//! was built with.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MLX_LLAMBA_RELOCATABLE");
    let macos = env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos");
    let origin = if macos { "@loader_path" } else { "$ORIGIN" };
    let rpath = |dir: &str| println!("cargo::rustc-link-arg-cdylib=-Wl,-rpath,{dir}");
    if !macos {
        // The old kind of entry also holds for the libraries that libmlx and OpenBLAS need.
        println!("cargo::rustc-link-arg-cdylib=-Wl,--disable-new-dtags");
    }
    rpath(&format!("{origin}/../mlx/lib"));
    rpath(origin);
    if let Ok(built_with) = env::var("DEP_MLX_LIB")
        && env::var_os("MLX_LLAMBA_RELOCATABLE").is_none()
    {
        rpath(&built_with);
    }
}
