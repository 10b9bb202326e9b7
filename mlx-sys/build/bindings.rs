//! Generates the Rust declarations of mlx-c with bindgen, which needs libclang.

use crate::{
    Result,
    cache::Cache,
    mlx_c::{self, Sources},
    target::Target,
    wheel::Wheel,
};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// libclang for machines that lack it, by operating system and architecture of the host.
const LIBCLANG: [((&str, &str), Wheel); 3] = [
    (
        ("linux", "x86_64"),
        Wheel {
            package: "libclang",
            version: "18.1.1",
            platform: "manylinux2010_x86_64",
            sha256: "c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b",
            files: "9afdd1d57ce3708fc416851b456f98feed3a202ae1d902dad469f05efba29cd0",
        },
    ),
    (
        ("linux", "aarch64"),
        Wheel {
            package: "libclang",
            version: "18.1.1",
            platform: "manylinux2014_aarch64",
            sha256: "54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592",
            files: "5f7b4850fcf321b318164891a2722b92ba5d1f702ba61f3fe1cf1c71385f71e7",
        },
    ),
    (
        ("macos", "aarch64"),
        Wheel {
            package: "libclang",
            version: "18.1.1",
            platform: "macosx_11_0_arm64",
            sha256: "0b2e143f0fac830156feb56f9231ff8338c20aecfe72b4ffe96f19e5a1dbb69a",
            files: "a7ea1a08784a8c1ae340d34e7bf572f3e07a471005b85a0e4d6122543685dda9",
        },
    ),
];

pub fn generate(mlx_c: &Sources, target: &Target, cache: &Cache, out: &Path) -> Result<()> {
    let mut builder = bindgen::Builder::default()
        .clang_arg(format!("-I{}", mlx_c.root.display()))
        // One half.h for every platform: it stands in for mlx-c's, whose types depend on the
        // processor and on compiler headers that a libclang by itself does not have.
        .clang_args(["-DMLX_HALF_H", "-include", "compat/half_bindgen.h"])
        .clang_args(load_libclang(target, cache)?)
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        .layout_tests(false);
    for header in mlx_c.files("h")? {
        builder = builder.header(header.to_string_lossy());
    }
    let bindings = builder
        .generate()
        .map_err(|error| format!("bindgen could not read mlx-c's headers: {error}"))?;
    let file = out.join("bindings.rs");
    bindings.write_to_file(&file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Loads the system's libclang, or else the wheel's. Returns the arguments that the latter needs.
fn load_libclang(target: &Target, cache: &Cache) -> Result<Vec<String>> {
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let missing = match clang_sys::load() {
        Ok(()) => return Ok(Vec::new()),
        Err(error) => error,
    };
    let host = (env::consts::OS, env::consts::ARCH);
    let advice = "Install libclang: `apt install libclang-dev` (Debian, Ubuntu) or \
                  `xcode-select --install` (macOS), or set LIBCLANG_PATH to its directory.";
    let Some((_, wheel)) = LIBCLANG.iter().find(|(system, _)| *system == host) else {
        return Err(format!("bindgen needs libclang: {missing}\n{advice}"));
    };
    let dir = wheel.unpacked(cache, false).map_err(|error| format!("{error}\n{advice}"))?;
    let dir = dir.join("clang/native");
    // For dependents with bindings of their own.
    println!("cargo::metadata=libclang={}", dir.display());
    // SAFETY: the build script has one thread at this point.
    unsafe { env::set_var("LIBCLANG_PATH", dir) };
    clang_sys::load().map_err(|error| format!("{error}\n{advice}"))?;
    Ok(compiler_headers(target)
        .map_or(Vec::new(), |dir| vec!["-isystem".to_owned(), dir.to_string_lossy().into_owned()]))
}

/// The folder of the C compiler's `stddef.h` for a Linux target: the wheel has none of its own.
fn compiler_headers(target: &Target) -> Option<PathBuf> {
    if target.is_macos() && target.cross {
        return None; // BINDGEN_EXTRA_CLANG_ARGS names their directory
    }
    let compiler = mlx_c::compiler().ok()?;
    let flag = if target.is_macos() { "-print-resource-dir" } else { "-print-file-name=include" };
    let output = Command::new(compiler.path()).arg(flag).output().ok()?;
    let dir = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(if target.is_macos() { dir.join("include") } else { dir })
}
