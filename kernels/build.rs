//! Compiles `cpu/`: operations of MLX's graph in C++, for the CPU.
//!
//! `*.simd.cpp` once per instruction set, see `cpu/levels.h`; every other file once.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=cpu");
    let sources = sources("cpu")?;
    let (simd, plain): (Vec<_>, Vec<_>) =
        sources.into_iter().partition(|path| path.to_string_lossy().ends_with(".simd.cpp"));
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut library = compiler();
    // These files include MLX's headers; `mlx-sys` says where they are and what to define.
    let include = env::var_os("DEP_MLX_INCLUDE").ok_or("mlx-sys has not set DEP_MLX_INCLUDE")?;
    for dir in env::split_paths(&include) {
        library.flag("-isystem").flag(dir);
    }
    for define in env::var("DEP_MLX_DEFINES").unwrap_or_default().split([' ', ',', ';']) {
        if let Some((name, value)) = define.split_once('=') {
            library.define(name, value);
        } else if !define.is_empty() {
            library.define(define, None);
        }
    }
    library.files(plain);

    let target = [env::var("CARGO_CFG_TARGET_ARCH")?, env::var("CARGO_CFG_TARGET_OS")?];
    let target = target.each_ref().map(String::as_str);
    for &(level, flags) in levels(target) {
        for object in level_of(level, flags, &out)?.files(&simd).try_compile_intermediates()? {
            library.object(object);
        }
    }
    for &(level, flags) in int8_levels(target) {
        let mut build = level_of(level, flags, &out)?;
        if !flags.iter().all(|flag| build.is_flag_supported(flag).unwrap_or(false)) {
            continue;
        }
        library.define(&format!("MLX_LLAMBA_{}", level.to_uppercase()), None);
        for object in build.file("cpu/packed.simd.cpp").try_compile_intermediates()? {
            library.object(object);
        }
    }
    library.try_compile("mlx_llamba_cpu")?;
    bindings(&out)
}

/// Makes the Rust declarations of `cpu/c_api.h`. The header includes nothing, so that any libclang
/// will do; `mlx-sys` says where it found one if the system has none.
fn bindings(out: &Path) -> Result<()> {
    if let Some(directory) = env::var_os("DEP_MLX_LIBCLANG") {
        // SAFETY: the build script has one thread at this point.
        unsafe { env::set_var("LIBCLANG_PATH", directory) };
    }
    let header = "cpu/c_api.h";
    let bindings = bindgen::Builder::default()
        .header(header)
        .allowlist_file(".*c_api.h")
        .generate()
        .map_err(|error| format!("bindgen could not read {header}: {error}"))?;
    Ok(bindings.write_to_file(out.join("c_api.rs"))?)
}

/// Optimized in every profile: tests would otherwise take minutes.
fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(3).debug(false).extra_warnings(true);
    // The vectors are passed between inlined functions only.
    build.flag_if_supported("-Wno-psabi");
    build
}

/// A compiler of one level's files.
fn level_of(level: &str, flags: &[&str], out: &Path) -> Result<cc::Build> {
    let dir = out.join(level);
    fs::create_dir_all(&dir)?;
    let mut build = compiler();
    build.define("SIMD_LEVEL", level).flag("-ffp-contract=off").out_dir(dir);
    if level == "avx512" {
        // g++ 12 sees uninitialized values in its own headers.
        build.flag_if_supported("-Wno-maybe-uninitialized");
        build.flag_if_supported("-Wno-uninitialized");
    }
    for flag in flags {
        build.flag(flag);
    }
    Ok(build)
}

/// Names of namespaces, and the flags that go with them.
type Levels = &'static [(&'static str, &'static [&'static str])];

/// Levels for which only the packed kernels are compiled; see `cpu/packed_choice.cpp`.
fn int8_levels(target: [&str; 2]) -> Levels {
    match target {
        ["x86_64", _] => &[("avxvnni", &["-mavx2", "-mfma", "-mf16c", "-mavxvnni"])],
        // Compilers for Apple silicon use the dot product by default.
        ["aarch64", "linux"] => &[
            ("dotprod", &["-march=armv8.2-a+dotprod"]),
            ("i8mm", &["-march=armv8.2-a+dotprod+i8mm"]),
        ],
        _ => &[],
    }
}

fn levels(target: [&str; 2]) -> Levels {
    match target {
        ["x86_64", _] => &[
            ("baseline", &[]),
            ("avx2", &["-mavx2", "-mfma", "-mf16c"]),
            (
                "avx512",
                &[
                    "-mavx2",
                    "-mfma",
                    "-mf16c",
                    "-mavx512f",
                    "-mavx512bw",
                    "-mavx512vl",
                    "-mavx512dq",
                    "-mprefer-vector-width=512",
                ],
            ),
        ],
        _ => &[("baseline", &[])],
    }
}

fn sources(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    files.sort();
    Ok(files)
}
