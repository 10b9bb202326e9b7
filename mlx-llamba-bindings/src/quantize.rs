//! Quantizing.

use std::ops::ControlFlow;
use std::sync::Arc;

use mlx_llamba::kernels::Mode;
use mlx_llamba::progress::Progress;
use mlx_llamba::quantize::{QuantizeOptions as Options, quantize_with};

use crate::error::Result;
use crate::options::LoadOptions;

/// Options of [`quantize`].
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct QuantizeOptions {
    /// Bits per weight: 2, 3, 4, 5, 6 or 8. `None`: 4.
    #[uniffi(default = None)]
    pub bits: Option<u32>,
    /// Weights that share a scale: 32, 64 or 128. `None`: 64.
    #[uniffi(default = None)]
    pub group_size: Option<u32>,
    /// Quantize a quantized checkpoint again, from its dequantized values.
    #[uniffi(default = false)]
    pub requantize: bool,
    /// Replace an existing checkpoint at the output.
    #[uniffi(default = false)]
    pub overwrite: bool,
}

/// A quantized checkpoint.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Quantized {
    /// Its directory.
    pub path: String,
    /// Bits per weight on average, scales and biases included.
    pub bits_per_weight: f64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bytes of all tensors of the original.
    pub source_bytes: u64,
}

/// Receives the progress of quantizing.
#[uniffi::export(with_foreign)]
pub trait QuantizeProgress: Send + Sync {
    /// Called when `done` of `total` values are written. False ends the work with `Interrupted`.
    fn advance(&self, done: u64, total: u64) -> bool;
}

/// Quantizes a checkpoint, a directory, file or hub repository (`None` for the built-in model), into a
/// new directory. Blocks the thread.
///
/// # Errors
/// `Argument`, `Load`, `File`, `Interrupted` or `Failed`.
#[uniffi::export(default(options = None, progress = None))]
pub fn quantize(
    model: Option<String>,
    output: String,
    options: Option<QuantizeOptions>,
    progress: Option<Arc<dyn QuantizeProgress>>,
) -> Result<Quantized> {
    let options = options.unwrap_or_default();
    let number = |number: Option<u32>| number.map(|number| number as usize);
    let scheme = Options::new(Mode::Affine, number(options.bits), number(options.group_size))?;
    let builder = match model {
        Some(name) => mlx_llamba::Llamba::builder(name),
        None => mlx_llamba::Llamba::embedded(),
    };
    let checkpoint = builder.hub(LoadOptions::default().hub()?).checkpoint()?;
    let mut on_progress = |at: Progress<'_>| match &progress {
        Some(listener) if !listener.advance(at.done, at.total) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let scheme = scheme.requantize(options.requantize).overwrite(options.overwrite);
    let report = quantize_with(&checkpoint, output, &scheme, &mut on_progress)?;
    Ok(Quantized {
        path: report.path.to_string_lossy().into_owned(),
        bits_per_weight: report.bits_per_weight,
        bytes: report.bytes,
        source_bytes: report.source_bytes,
    })
}
