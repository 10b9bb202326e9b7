//! The target machine, and its requirements.

use crate::{Result, variable};
use std::{env, process::Command};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Os {
    Linux,
    MacOs,
}

pub struct Target {
    pub os: Os,
    /// `x86_64` or `aarch64`.
    pub arch: String,
    pub triple: String,
    /// True if the host machine is of another kind.
    pub cross: bool,
}

impl Target {
    pub fn from_cargo() -> Result<Self> {
        let triple = variable("TARGET")?;
        let os = match variable("CARGO_CFG_TARGET_OS")?.as_str() {
            "linux" => Os::Linux,
            "macos" => Os::MacOs,
            other => return Err(format!("MLX runs on macOS and Linux, not on {other}")),
        };
        let cross = triple != variable("HOST")?;
        let arch = variable("CARGO_CFG_TARGET_ARCH")?;
        Ok(Self { os, arch, triple, cross })
    }

    pub fn is_macos(&self) -> bool {
        self.os == Os::MacOs
    }

    /// The oldest macOS that the result must run on: MACOSX_DEPLOYMENT_TARGET, or else the version of
    /// this Mac, or else 14, the oldest with a prebuilt MLX.
    pub fn macos_major(&self) -> u32 {
        println!("cargo::rerun-if-env-changed=MACOSX_DEPLOYMENT_TARGET");
        let this_mac = || {
            let output = Command::new("sw_vers").arg("-productVersion").output().ok()?;
            String::from_utf8(output.stdout).ok()
        };
        env::var("MACOSX_DEPLOYMENT_TARGET")
            .ok()
            .or_else(|| if self.cross { None } else { this_mac() })
            .and_then(|version| version.split('.').next()?.trim().parse().ok())
            .unwrap_or(14)
    }
}
