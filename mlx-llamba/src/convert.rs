//! Converts checkpoints from one layout to another.

use std::path::{Path, PathBuf};

use derive_setters::Setters;
use mlx_rs::Dtype;

use crate::checkpoint::{Checkpoint, Layout};
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::progress::{self, OnProgress};
use crate::quantize::SHARD_BYTES;
use crate::store::{Rewrite, plan, stored_float};

/// Options of [`convert`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Setters)]
#[setters(strip_option)]
pub struct Conversion {
    /// The layout to write: [`Layout::MlxLlamba`] keeps quantized matrices as they are,
    /// [`Layout::PyTorch`] dequantizes them. Cartesia's cannot be written.
    #[setters(skip)]
    pub to: Layout,
    /// Dtype of all dense tensors: float32, float16 or bfloat16. `None` keeps the stored dtype, and
    /// gives a dequantized matrix the dtype of its scales.
    pub dtype: Option<Dtype>,
    /// Replace an existing checkpoint at the output.
    pub overwrite: bool,
    /// Largest weight file in bytes; a larger model is split into shards with an index.
    pub shard_bytes: usize,
}

impl Conversion {
    /// Options that convert to `layout` and keep every dtype.
    pub fn to(layout: Layout) -> Self {
        Self { to: layout, dtype: None, overwrite: false, shard_bytes: SHARD_BYTES }
    }
}

/// Converts a checkpoint into a new directory, a few rows at a time, and returns the directory.
/// It appears under its name when it is complete and on the disk.
///
/// # Errors
/// [`Error::Argument`] for a layout or dtype that cannot be written, [`Error::OutputExists`],
/// [`Error::Io`].
pub fn convert(
    source: &Checkpoint,
    output: impl AsRef<Path>,
    conversion: &Conversion,
) -> Result<PathBuf> {
    convert_with(source, output, conversion, &mut progress::ignore)
}

/// [`convert`] with a progress callback, which can stop it.
///
/// # Errors
/// Those of [`convert`], and [`Error::Interrupted`].
pub fn convert_with(
    source: &Checkpoint,
    output: impl AsRef<Path>,
    conversion: &Conversion,
    on_progress: OnProgress<'_>,
) -> Result<PathBuf> {
    let output = output.as_ref();
    let dtype = conversion.dtype.map(stored_float).transpose()?;
    let mut config = source.config().clone();
    let format = match conversion.to {
        Layout::MlxLlamba => "mlx",
        Layout::PyTorch => {
            config.split_a_log = false;
            "pt"
        }
        Layout::CartesiaMlx => {
            return Err(Error::Argument {
                name: "to",
                value: conversion.to.to_string(),
                expected: format!("{} or {}", Layout::MlxLlamba, Layout::PyTorch),
            });
        }
    };
    let mut tensors = plan(source, &config);
    let mut schemes = std::collections::BTreeMap::new();
    for tensor in &mut tensors {
        if conversion.to == Layout::PyTorch {
            tensor.scheme = None;
        }
        match (tensor.scheme, dtype) {
            // Scales and biases keep their dtype: rounding them would change every value.
            (Some(scheme), _) => {
                schemes.insert(tensor.spec.prefix().to_owned(), scheme);
            }
            (None, Some(dtype)) => tensor.dtype = dtype,
            (None, None) => {}
        }
    }
    config.quantization = match &source.config().quantization {
        Some(block) => Quantization::with_default(block.scheme, &schemes),
        None => None,
    };
    let rewrite = Rewrite {
        source,
        config,
        tensors,
        output,
        overwrite: conversion.overwrite,
        shard_bytes: conversion.shard_bytes,
        made_from: "Converted from",
        format,
    };
    rewrite.run(on_progress)
}
