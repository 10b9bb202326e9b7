//! Quantizes a checkpoint, tensor by tensor, in bounded memory.

use std::path::{Path, PathBuf};

use derive_setters::Setters;
use mlx_llamba_kernels::{Mode, Scheme};
use mlx_rs::Dtype;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::Quantization;
use crate::error::{Error, Result, TensorProblem};
use crate::names;
use crate::progress::{self, OnProgress};
use crate::store::{Rewrite, TensorPlan, plan, stored_float};
use crate::units;

/// Distribution of bits over the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recipe {
    /// All matrices have the same scheme.
    #[default]
    Uniform,
    /// The most sensitive weights get more bits: the rows of `in_proj` that give `A_log` stay
    /// dense (their errors accumulate over the text), and `out_proj` and `down_proj` of the first
    /// and last eighth of the layers, and the head, get the next finer scheme.
    Mixed,
}

/// A scheme for the matrices that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// A path such as `backbone.layers.3.mlp.down_proj`, or its last parts (`down_proj`,
    /// `mlp.down_proj`); `*` stands for any text.
    pub pattern: String,
    /// The scheme; `None` keeps the matrix dense.
    pub scheme: Option<Scheme>,
}

impl Override {
    /// Parses `PATTERN=none`, `PATTERN=BITS`, `PATTERN=BITS:GROUP` or `PATTERN=MODE`; the rest is
    /// taken from `base`.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn parse(text: &str, base: Scheme) -> Result<Self> {
        let bad = |expected: String| Error::Argument {
            name: "override",
            value: text.to_owned(),
            expected,
        };
        let form = || bad("PATTERN=none, PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=MODE".into());
        let (pattern, value) = text.split_once('=').ok_or_else(form)?;
        let modes = [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];
        let scheme = if value == "none" {
            None
        } else if let Some(&mode) = modes.iter().find(|mode| mode.name() == value) {
            let (group_size, bits) = mode.defaults();
            Some(Scheme { group_size, bits, mode })
        } else {
            let (bits, group_size) = value.split_once(':').unwrap_or((value, ""));
            let bits = bits.parse().map_err(|_| form())?;
            let own = if base.mode == Mode::Affine { base.group_size } else { 64 };
            let group_size =
                if group_size.is_empty() { own } else { group_size.parse().map_err(|_| form())? };
            Some(Scheme::new(group_size, bits, Mode::Affine).map_err(|e| bad(e.to_string()))?)
        };
        Ok(Self { pattern: pattern.to_owned(), scheme })
    }

    fn matches(&self, path: &str) -> bool {
        names::matches(&self.pattern, path)
    }
}

/// Options of [`quantize`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Setters)]
#[setters(strip_option)]
pub struct QuantizeOptions {
    /// The scheme of all matrices without an exception below.
    pub scheme: Scheme,
    /// Quantize the embedding, which in a tied model is also the head.
    pub embedding: bool,
    /// Quantize the head of an untied model.
    pub head: bool,
    /// Exceptions; if several match a matrix, the last one applies.
    pub overrides: Vec<Override>,
    /// Cast every float to this dtype first: float32, float16 or bfloat16. Scales and biases are
    /// stored in it, so float16 makes a float32 model smaller. `None` keeps the stored dtype.
    pub dtype: Option<Dtype>,
    /// Distribution of bits over the matrices.
    pub recipe: Recipe,
    /// Quantize a quantized checkpoint again, from its dequantized values.
    pub requantize: bool,
    /// Replace an existing checkpoint at the output.
    pub overwrite: bool,
    /// Largest weight file in bytes; a larger model is split into shards with an index.
    pub shard_bytes: usize,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self {
            scheme: Scheme { group_size: 64, bits: 4, mode: Mode::Affine },
            embedding: true,
            head: true,
            overrides: Vec::new(),
            dtype: None,
            recipe: Recipe::Uniform,
            requantize: false,
            overwrite: false,
            shard_bytes: SHARD_BYTES,
        }
    }
}

/// The usual limit of a weight file.
pub(crate) const SHARD_BYTES: usize = 5 << 30;

impl QuantizeOptions {
    /// The defaults with another scheme; bits and group size default to those of the mode.
    ///
    /// # Errors
    /// [`Error::Argument`] if MLX does not support the scheme.
    pub fn new(mode: Mode, bits: Option<usize>, group_size: Option<usize>) -> Result<Self> {
        let (own_group, own_bits) = mode.defaults();
        let (bits, group_size) = (bits.unwrap_or(own_bits), group_size.unwrap_or(own_group));
        let scheme = Scheme::new(group_size, bits, mode).map_err(|error| Error::Argument {
            name: "quantization",
            value: format!("mode {mode}, {bits} bits, group size {group_size}"),
            expected: format!("a scheme that MLX supports: {error}"),
        })?;
        Ok(Self { scheme, ..Self::default() })
    }

    /// The scheme for one matrix, `None` for dense.
    fn scheme_for(&self, path: &str, n_layer: usize, tied: bool) -> Option<Scheme> {
        if let Some(found) = self.overrides.iter().rev().find(|o| o.matches(path)) {
            return found.scheme;
        }
        let (embedding, head) = (path == "backbone.embedding", path == "lm_head");
        if (embedding && !self.embedding) || (head && !self.head) {
            return None;
        }
        let sensitive = if embedding || head {
            head || tied
        } else {
            let layer = path.split('.').nth(2).and_then(|i| i.parse().ok()).unwrap_or(0);
            let edge = n_layer.div_ceil(8);
            let at_edge = layer < edge || layer + edge >= n_layer;
            at_edge && (path.ends_with(".out_proj") || path.ends_with(".down_proj"))
        };
        if self.recipe == Recipe::Mixed && sensitive {
            Some(finer(self.scheme))
        } else {
            Some(self.scheme)
        }
    }
}

/// The next finer scheme.
fn finer(scheme: Scheme) -> Scheme {
    match scheme.mode {
        Mode::Affine => {
            let bits = match scheme.bits {
                bits @ ..=4 => bits + 2,
                _ => 8,
            };
            Scheme { bits, ..scheme }
        }
        mode => {
            let mode = if mode == Mode::Mxfp8 { mode } else { Mode::Mxfp8 };
            let (group_size, bits) = mode.defaults();
            Scheme { group_size, bits, mode }
        }
    }
}

/// Summary of a quantized checkpoint.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    /// The new checkpoint.
    pub path: PathBuf,
    /// The number of values in the model.
    pub parameters: u64,
    /// Bits per weight on average, scales and biases included.
    pub bits_per_weight: f64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bytes of all tensors of the original.
    pub source_bytes: u64,
    /// The path and scheme of every matrix; `None` for a dense one.
    pub matrices: Vec<(String, Option<Scheme>)>,
}

impl std::fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {:.3} bits per weight, {} (was {})",
            self.path.display(),
            self.bits_per_weight,
            units::bytes(self.bytes),
            units::bytes(self.source_bytes)
        )
    }
}

/// Quantizes a checkpoint into a new directory, a few rows at a time, with MLX's own operation on
/// the CPU: every array is bit-identical to `mx.quantize` of the stored tensor.
///
/// The directory appears under its name when it is complete and on the disk. The tokenizer's files
/// are copied, and a model card is written.
///
/// # Errors
/// [`Error::NotQuantizable`] if rows do not divide into groups, [`Error::AlreadyQuantized`],
/// [`Error::Argument`] for an override that matches no matrix, [`Error::OutputExists`],
/// [`Error::Io`].
pub fn quantize(
    source: &Checkpoint,
    output: impl AsRef<Path>,
    options: &QuantizeOptions,
) -> Result<QuantizeReport> {
    quantize_with(source, output, options, &mut progress::ignore)
}

/// [`quantize`] with a progress callback, which can stop it.
///
/// # Errors
/// Those of [`quantize`], and [`Error::Interrupted`].
pub fn quantize_with(
    source: &Checkpoint,
    output: impl AsRef<Path>,
    options: &QuantizeOptions,
    on_progress: OnProgress<'_>,
) -> Result<QuantizeReport> {
    let output = output.as_ref();
    let mut config = source.config().clone();
    if let Some(block) = &config.quantization
        && !options.requantize
        && source.is_quantized()
    {
        return Err(Error::AlreadyQuantized {
            path: source.path().to_owned(),
            bits: block.scheme.bits,
        });
    }
    config.split_a_log |= options.recipe == Recipe::Mixed;
    let dtype = options.dtype.map(stored_float).transpose()?;
    let mut tensors = plan(source, &config);
    for tensor in &mut tensors {
        tensor.dtype = dtype.unwrap_or(tensor.dtype);
    }
    check_patterns(options, &tensors)?;
    let mut problems = Vec::new();
    let mut schemes = std::collections::BTreeMap::new();
    for matrix in tensors.iter_mut().filter(|tensor| tensor.spec.is_matrix()) {
        let path = matrix.spec.prefix();
        matrix.scheme = options.scheme_for(path, config.n_layer, config.tie_embeddings);
        let Some(scheme) = matrix.scheme else { continue };
        if let Err(error) = scheme.packed_columns(matrix.spec.shape[1]) {
            let (name, reason) = (matrix.spec.name.clone(), error.to_string());
            problems.push(TensorProblem::Scheme { name, reason });
        }
        schemes.insert(path.to_owned(), scheme);
    }
    if !problems.is_empty() {
        return Err(Error::NotQuantizable { path: source.path().to_owned(), problems });
    }
    config.quantization = Quantization::with_default(options.scheme, &schemes);
    let matrices = tensors.iter().filter(|tensor| tensor.spec.is_matrix());
    let matrices = matrices.map(|m| (m.spec.prefix().to_owned(), m.scheme)).collect();
    let rewrite = Rewrite {
        source,
        config,
        tensors,
        output,
        overwrite: options.overwrite,
        shard_bytes: options.shard_bytes,
        made_from: "Quantized from",
        format: "mlx",
    };
    let path = rewrite.run(on_progress)?;
    let written = Checkpoint::open(&path)?;
    Ok(QuantizeReport {
        path,
        parameters: written.parameters(),
        bits_per_weight: written.bits_per_weight(),
        bytes: written.tensor_bytes(),
        source_bytes: source.tensor_bytes(),
        matrices,
    })
}

/// Refuses a pattern that matches no matrix: it is a typing mistake.
fn check_patterns(options: &QuantizeOptions, tensors: &[TensorPlan]) -> Result<()> {
    let matrices = || tensors.iter().filter(|tensor| tensor.spec.is_matrix());
    for exception in &options.overrides {
        if !matrices().any(|matrix| exception.matches(matrix.spec.prefix())) {
            return Err(Error::Argument {
                name: "override",
                value: exception.pattern.clone(),
                expected: "a pattern that names a matrix of this model".into(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_read_as_documented() {
        let base = Scheme::new(32, 4, Mode::Affine).unwrap();
        let scheme = |text: &str| Override::parse(text, base).map(|o| o.scheme);
        assert_eq!(scheme("lm_head=none").unwrap(), None);
        assert_eq!(scheme("a=6").unwrap(), Some(Scheme::new(32, 6, Mode::Affine).unwrap()));
        assert_eq!(scheme("a=8:128").unwrap(), Some(Scheme::new(128, 8, Mode::Affine).unwrap()));
        assert_eq!(scheme("a=mxfp8").unwrap(), Some(Scheme::new(32, 8, Mode::Mxfp8).unwrap()));
        for bad in ["a", "a=", "a=7", "a=4:33", "a=x"] {
            assert!(matches!(scheme(bad), Err(Error::Argument { .. })), "{bad}");
        }
    }

    #[test]
    fn the_mixed_recipe_spends_bits_where_they_count() {
        let options = QuantizeOptions { recipe: Recipe::Mixed, ..Default::default() };
        let bits = |path: &str| options.scheme_for(path, 16, false).map(|scheme| scheme.bits);
        assert_eq!(bits("lm_head"), Some(6));
        assert_eq!(bits("backbone.embedding"), Some(4));
        assert_eq!(bits("backbone.layers.1.mixer.out_proj"), Some(6));
        assert_eq!(bits("backbone.layers.2.mixer.out_proj"), Some(4));
        assert_eq!(bits("backbone.layers.13.mlp.down_proj"), Some(4));
        assert_eq!(bits("backbone.layers.14.mlp.down_proj"), Some(6));
        assert_eq!(bits("backbone.layers.14.mlp.up_proj"), Some(4));
    }
}
