//! MLX itself: a prebuilt wheel, or the directory in MLX_ROOT.

use crate::{
    Result,
    cache::Cache,
    target::{Os, Target},
    wheel::Wheel,
};
use std::{env, fs, path::PathBuf};

/// The version that mlx-c 0.7.0 is written for.
pub const VERSION: &str = "0.32.2";

const LINUX: [(&str, Wheel); 2] = [
    (
        "x86_64",
        Wheel {
            package: "mlx-cpu",
            version: VERSION,
            platform: "manylinux_2_35_x86_64",
            sha256: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
            files: "4aef5c49272d3895f1da0a25b6578f96d36ebde12d1782371964e293d31dc0e8",
        },
    ),
    (
        "aarch64",
        Wheel {
            package: "mlx-cpu",
            version: VERSION,
            platform: "manylinux_2_35_aarch64",
            sha256: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
            files: "aad212e965c2576615f06c71e6203a622b7dd00325e62aa242ffc7409329521c",
        },
    ),
];

/// The wheels by the oldest macOS that they run on, newest first. Newer ones have more Metal kernels.
const MACOS_ARM64: [(u32, Wheel); 3] = [
    (
        26,
        Wheel {
            package: "mlx-metal",
            version: VERSION,
            platform: "macosx_26_0_arm64",
            sha256: "e6abeac9ac5265830c9c1541b6f96e9be37a85c2446763a46ad466c63a3837ab",
            files: "08929e4c49a97a83fa249c2e68fca0c75fc8b48526c2693dad30ae9e5ecdfb03",
        },
    ),
    (
        15,
        Wheel {
            package: "mlx-metal",
            version: VERSION,
            platform: "macosx_15_0_arm64",
            sha256: "55a369250d220b2cf10213a87a2ac1b1a420608c5b35b1df4e7147ac8e32f121",
            files: "a055e189dc11712dc290119cef75c3081687d7f262ae5a31409c44c714ceb601",
        },
    ),
    (
        14,
        Wheel {
            package: "mlx-metal",
            version: VERSION,
            platform: "macosx_14_0_arm64",
            sha256: "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8",
            files: "fa9beb75529b2b7b1ae9a51c3e3de91d7918adfd10c252cfe582c1f96748ea89",
        },
    ),
];

pub struct Mlx {
    /// The directory of `mlx/*.h`, and of `metal_cpp/` on macOS.
    pub include: PathBuf,
    /// The directory of `libmlx.so`, or of `libmlx.dylib` and `mlx.metallib`.
    pub lib: PathBuf,
    pub version: String,
}

impl Mlx {
    pub fn locate(target: &Target, cache: &Cache) -> Result<Self> {
        println!("cargo::rerun-if-env-changed=MLX_ROOT");
        match env::var_os("MLX_ROOT") {
            Some(root) if !root.is_empty() => {
                Self::at(target, PathBuf::from(root)).map_err(|error| format!("MLX_ROOT: {error}"))
            }
            _ => {
                let wheel = choose(target)?;
                let foreign = target.cross || target.is_macos();
                Self::at(target, wheel.unpacked(cache, foreign)?.join("mlx"))
            }
        }
    }

    fn at(target: &Target, root: PathBuf) -> Result<Self> {
        let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
        let (include, lib) = (root.join("include"), root.join("lib"));
        let library = lib.join(if target.is_macos() { "libmlx.dylib" } else { "libmlx.so" });
        if !library.is_file() {
            return Err(format!("{} is missing", library.display()));
        }
        let header = include.join("mlx/version.h");
        let text = fs::read_to_string(&header)
            .map_err(|error| format!("{}: {error}", header.display()))?;
        let part = |name: &str| {
            let prefix = format!("#define MLX_VERSION_{name} ");
            text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("?").trim()
        };
        let version = format!("{}.{}.{}", part("MAJOR"), part("MINOR"), part("PATCH"));
        if version != VERSION {
            println!(
                "cargo::warning={} is MLX {version}; mlx-c 0.7.0 is written for {VERSION} and may \
                 not compile or behave the same",
                root.display()
            );
        }
        Ok(Self { include, lib, version })
    }
}

fn choose(target: &Target) -> Result<&'static Wheel> {
    let found = match target.os {
        Os::Linux => LINUX.iter().find(|(arch, _)| *arch == target.arch).map(|(_, wheel)| wheel),
        Os::MacOs if target.arch == "aarch64" => {
            let major = target.macos_major();
            MACOS_ARM64.iter().find(|(oldest, _)| *oldest <= major).map(|(_, wheel)| wheel)
        }
        Os::MacOs => None,
    };
    found.ok_or_else(|| {
        format!(
            "there is no prebuilt MLX {VERSION} for {}: it exists for Linux on x86_64 and aarch64 \
             and for macOS 14 or later on Apple silicon\n\
             Build MLX from source and set MLX_ROOT to the directory it was installed into.",
            target.triple
        )
    })
}
