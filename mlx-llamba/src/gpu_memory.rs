//! The memory of a Mac's GPU: how much of it macOS allows, and what MLX keeps of it.

use mlx_llamba_kernels::mlx::gpu_memory;
use mlx_rs::memory::{set_cache_limit, set_wired_limit};

/// Returns the bytes that macOS lets a GPU use on a Mac with `memory` bytes, unless the setting
/// `iogpu.wired_limit_mb` says otherwise: two thirds, and three quarters of more than 36 GiB.
///
/// A rule of thumb for machines other than this one: Apple documents no number.
#[must_use]
pub fn of_mac(memory: u64) -> u64 {
    match memory {
        0..=0x9_0000_0000 => memory / 3 * 2,
        _ => memory / 4 * 3,
    }
}

/// The settings of MLX for a model.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    /// Bytes that stay in memory, so that macOS neither compresses nor swaps weights between replies.
    wired: usize,
    /// Bytes of freed buffers that MLX may keep. Its own limit is more than the GPU's whole memory.
    cache: usize,
    warning: Option<String>,
}

impl Limits {
    /// Computes the settings for `weights` bytes where a GPU may use `allowed` bytes.
    fn of(weights: usize, allowed: u64) -> Self {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let tight = weights as u64 > allowed / 10 * 9;
        let warning = tight.then(|| {
            format!(
                "the weights take {:.1} GiB of the {:.1} GiB that macOS lets the GPU use: this will be \
                 slow. Quantize the model to fewer bits, or allow more with `sudo sysctl \
                 iogpu.wired_limit_mb=N`",
                gib(weights as u64),
                gib(allowed)
            )
        });
        let cache = (allowed / 4).min(4 << 30) as usize;
        Self { wired: usize::try_from(allowed).unwrap_or(usize::MAX), cache, warning }
    }
}

/// Sets MLX's limits for a model with `weights` bytes on a Mac's GPU. They hold for the process.
pub(crate) fn set(weights: usize) {
    let Some(allowed) = gpu_memory() else { return };
    let Limits { wired, cache, warning } = Limits::of(weights, allowed);
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
    // macOS 14 wires nothing.
    for set in [set_wired_limit(wired), set_cache_limit(cache)] {
        if let Err(error) = set {
            log::debug!("a limit of MLX's memory is not set: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, of_mac};

    #[test]
    fn macs_let_a_gpu_use_a_part() {
        assert_eq!([8u64, 36, 64].map(|gib| of_mac(gib << 30) >> 20), [5461, 24576, 49152]);
    }

    #[test]
    fn a_model_that_hardly_fits_gets_a_warning() {
        let limits = Limits::of(4 << 30, 16 << 30);
        assert_eq!(limits, Limits { wired: 16 << 30, cache: 4 << 30, warning: None });
        let limits = Limits::of(5 << 30, 5461 << 20);
        assert_eq!(limits.cache, 5461 << 18);
        let warning = limits.warning.unwrap_or_default();
        assert!(warning.contains("5.0 GiB of the 5.3 GiB"), "{warning}");
    }
}
