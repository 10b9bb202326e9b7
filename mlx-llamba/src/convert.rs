//! Turns checkpoints of one layout into another.

use std::path::{Path, PathBuf};

use mlx_rs::Dtype;

use crate::checkpoint::{Checkpoint, Layout};
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::quantize::SHARD_BYTES;
use crate::store::{Job, OnProgress, stored, units};

/// What to convert to.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// The layout to write: [`Layout::MlxLlamba`] keeps quantized matrices as they are,
    /// [`Layout::PyTorch`] makes all of them dense. Cartesia's is only read.
    pub to: Layout,
    /// Dtype of all dense tensors: float32, float16 or bfloat16. `None` keeps what is stored, and
    /// gives a dequantized matrix the dtype of its scales.
    pub dtype: Option<Dtype>,
    /// Replace a checkpoint that stands where the output goes.
    pub overwrite: bool,
    /// Largest weight file in bytes; more become shards with an index.
    pub shard_bytes: usize,
}

impl Conversion {
    /// To `layout`, with every dtype kept.
    pub fn to(layout: Layout) -> Self {
        Self { to: layout, dtype: None, overwrite: false, shard_bytes: SHARD_BYTES }
    }
}

/// Converts a checkpoint into a new directory, a few rows at a time; gives the directory.
///
/// The output appears under its name when it is complete and on the disk.
///
/// # Errors
/// [`Error::Option`] for a layout or dtype that is not written, [`Error::OutputExists`],
/// [`Error::Io`], [`Error::Interrupted`].
pub fn convert(
    source: &Checkpoint,
    output: &Path,
    conversion: &Conversion,
    on_progress: OnProgress<'_>,
) -> Result<PathBuf> {
    let dtype = conversion.dtype.map(stored).transpose()?;
    let mut config = source.config().clone();
    let format = match conversion.to {
        Layout::MlxLlamba => "mlx",
        Layout::PyTorch => {
            config.split_a_log = false;
            "pt"
        }
        Layout::CartesiaMlx => {
            return Err(Error::Option {
                option: "to",
                value: conversion.to.to_string(),
                expected: format!("{} or {}", Layout::MlxLlamba, Layout::PyTorch),
            });
        }
    };
    let mut units = units(source, &config);
    let mut schemes = std::collections::BTreeMap::new();
    for unit in &mut units {
        if conversion.to == Layout::PyTorch {
            unit.scheme = None;
        }
        match (unit.scheme, dtype) {
            // Scales and biases stay as they are: in another dtype they would be other values.
            (Some(scheme), _) => {
                schemes.insert(unit.slot.prefix().to_owned(), scheme);
            }
            (None, Some(dtype)) => unit.dtype = dtype,
            (None, None) => {}
        }
    }
    config.quantization = match &source.config().quantization {
        Some(block) => Quantization::with_default(block.scheme, &schemes),
        None => None,
    };
    let job = Job {
        source,
        config,
        units,
        output,
        overwrite: conversion.overwrite,
        shard_bytes: conversion.shard_bytes,
        made_from: "Converted from",
        format,
    };
    job.run(on_progress)
}
