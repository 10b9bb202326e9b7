//! MLX's CUDA library, for programs that choose between it and the one they are linked with when they
//! start: without a GPU and its driver it does not even compute on the CPU.

use crate::{
    Result,
    cache::Cache,
    mlx,
    target::{Os, Target},
    wheel,
};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

/// The wheels, which find each other when they are unpacked into one directory.
const WHEELS: &str = include_str!("cuda.txt");
/// The hashes of their files, by architecture.
const FILES: [(&str, &str); 2] = [
    ("x86_64", "2506e55d08d986c6236c4385752d7c2003a8d788a7ab8e4380b4c56553cfd593"),
    ("aarch64", "d7ff6ccdb8bf7a91a9b5afe262a152709fd147f5f6a7376ec76aaac8bc013b44"),
];

/// Returns the directory that has MLX's CUDA library, as `mlx/lib/libmlx.so`, and NVIDIA's libraries.
pub fn locate(target: &Target, cache: &Cache) -> Result<PathBuf> {
    if target.os != Os::Linux || target.cross {
        let triple = &target.triple;
        return Err(format!("the feature cuda is for Linux, built there; the target is {triple}"));
    }
    let (_, files) = FILES.iter().find(|(arch, _)| *arch == target.arch).ok_or_else(|| {
        format!("the feature cuda is for x86_64 and aarch64, not for {}", target.arch)
    })?;
    let mut hasher = DefaultHasher::new();
    WHEELS.hash(&mut hasher);
    let name = format!("mlx-cuda-{}-{:016x}", mlx::VERSION, hasher.finish());
    cache.entry(&name, files, |dir| {
        println!("cargo::warning=downloading MLX for CUDA with NVIDIA's libraries, about 1.3 GB");
        wheel::install(dir, WHEELS, "MLX for CUDA with NVIDIA's libraries", None)
    })
}
