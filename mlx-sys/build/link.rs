//! Link flags of the program, and metadata for dependents.

use crate::{
    Result,
    mlx::Mlx,
    mlx_c::{self, Sources},
    target::Target,
};
use std::{env, fs, os::unix::fs::symlink, path::Path};

#[derive(PartialEq, Eq)]
pub enum Blas {
    /// The BLAS that comes with libmlx: Accelerate on macOS, the reference BLAS on Linux.
    Bundled,
    /// OpenBLAS, whose `cblas_*` the dynamic loader finds before those of libmlx because the program
    /// is linked with it.
    OpenBlas,
}

impl Blas {
    /// Tries to link a program with OpenBLAS.
    pub fn probe(target: &Target, out: &Path) -> Result<Self> {
        let compiler = mlx_c::compiler()?;
        if target.is_macos() {
            return Ok(Self::Bundled);
        }
        let source = out.join("openblas.cpp");
        let text = "extern \"C\" int openblas_get_num_threads(void);\n\
                    int main() { return openblas_get_num_threads() < 1; }\n";
        fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
        let linked = compiler
            .to_command()
            .arg(&source)
            .arg("-o")
            .arg(out.join("openblas"))
            .arg("-lopenblas")
            .output()
            .is_ok_and(|output| output.status.success());
        if linked {
            return Ok(Self::OpenBlas);
        }
        println!(
            "cargo::warning=OpenBLAS was not found: matrix multiplications on the CPU will be \
             about 35 times slower. Run `apt install libopenblas-dev`, then `cargo clean -p mlx-sys`."
        );
        Ok(Self::Bundled)
    }
}

pub fn emit(target: &Target, mlx: &Mlx, mlx_c: &Sources, blas: &Blas, out: &Path) -> Result<()> {
    // `cargo run` and `cargo test` set the library path only for directories in OUT_DIR. The loader
    // follows the link, so libmlx finds the libraries beside the real directory.
    let lib = out.join("lib");
    let _ = fs::remove_file(&lib); // of an earlier run
    symlink(&mlx.lib, &lib).map_err(|error| format!("{}: {error}", lib.display()))?;
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    if target.is_macos() {
        println!("cargo::rustc-link-lib=dylib=c++");
    } else {
        println!("cargo::rustc-link-lib=static:+whole-archive=mlx_compat");
        if *blas == Blas::OpenBlas {
            println!("cargo::rustc-link-lib=dylib=openblas");
        }
        println!("cargo::rustc-link-lib=dylib=stdc++");
    }

    let metal_cpp = mlx.include.join("metal_cpp");
    let metal_cpp = (cfg!(feature = "metal") && metal_cpp.is_dir()).then_some(metal_cpp);
    let include = [Some(mlx.include.clone()), metal_cpp, Some(mlx_c.root.clone())];
    let include = env::join_paths(include.into_iter().flatten())
        .map_err(|error| format!("a directory of MLX cannot be part of a path list: {error}"))?;
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::metadata=defines=");
    println!("cargo::metadata=version={}", mlx.version);
    // Not in the stock package: the directory of libmlx, for dependents that set an rpath.
    println!("cargo::metadata=lib={}", mlx.lib.display());
    Ok(())
}
