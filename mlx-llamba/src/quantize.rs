//! Quantizes a checkpoint, tensor by tensor, in bounded memory.

use std::path::{Path, PathBuf};

use mlx_llamba_kernels::{Mode, Scheme};
use mlx_rs::Dtype;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Kind};
use crate::config::Quantization;
use crate::error::{Error, Result, TensorProblem};
use crate::store::{Job, OnProgress, Unit, stored, units};

/// Which matrices get how many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recipe {
    /// The same for all.
    #[default]
    Uniform,
    /// What a Llamba is most sensitive to gets more: the rows of `in_proj` that give `A_log`
    /// stay dense (their errors add up over the whole text), and `out_proj` and `down_proj` of
    /// the first and last eighth of the layers, and the head, get the next better coding.
    Mixed,
}

/// A scheme for the matrices that a pattern names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// A path such as `backbone.layers.3.mlp.down_proj`, or its last parts (`down_proj`,
    /// `mlp.down_proj`), with `*` for anything.
    pub pattern: String,
    /// The scheme; `None` keeps the matrix dense.
    pub scheme: Option<Scheme>,
}

impl Override {
    /// Reads `PATTERN=none`, `PATTERN=BITS`, `PATTERN=BITS:GROUP` or `PATTERN=MODE`; what is
    /// left out is as in `base`.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn parse(text: &str, base: Scheme) -> Result<Self> {
        let bad = |expected: String| Error::Option {
            option: "override",
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
        let tails = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
        std::iter::once(path).chain(tails).any(|tail| glob(&self.pattern, tail))
    }
}

/// True if `text` is `pattern` with something, or nothing, for every `*`.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// How to quantize.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeOptions {
    /// The scheme of all matrices that nothing else is said of.
    pub scheme: Scheme,
    /// Quantize the embedding, which in a tied model is the head too.
    pub embedding: bool,
    /// Quantize the head of an untied model.
    pub head: bool,
    /// Exceptions; of several that match a matrix the last one counts.
    pub overrides: Vec<Override>,
    /// Cast every float to this dtype first: float32, float16 or bfloat16. Scales and biases are
    /// stored in it, so float16 makes a float32 model smaller. `None` keeps what is stored.
    pub dtype: Option<Dtype>,
    /// What else gets another scheme.
    pub recipe: Recipe,
    /// Quantize a checkpoint that is quantized already, from its dequantized values.
    pub requantize: bool,
    /// Replace a checkpoint that stands where the output goes.
    pub overwrite: bool,
    /// Largest weight file in bytes; more become shards with an index.
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

/// The customary largest weight file.
pub(crate) const SHARD_BYTES: usize = 5 << 30;

impl QuantizeOptions {
    /// The defaults with another scheme; what is not given is the mode's own.
    ///
    /// # Errors
    /// [`Error::Option`] if MLX has no such scheme.
    pub fn new(mode: Mode, bits: Option<usize>, group_size: Option<usize>) -> Result<Self> {
        let (own_group, own_bits) = mode.defaults();
        let (bits, group_size) = (bits.unwrap_or(own_bits), group_size.unwrap_or(own_group));
        let scheme = Scheme::new(group_size, bits, mode).map_err(|error| Error::Option {
            option: "quantization",
            value: format!("mode {mode}, {bits} bits, group size {group_size}"),
            expected: format!("a scheme of MLX: {error}"),
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
            Some(better(self.scheme))
        } else {
            Some(self.scheme)
        }
    }
}

/// The next better coding.
fn better(scheme: Scheme) -> Scheme {
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

/// What came of it.
#[non_exhaustive]
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    /// The new checkpoint.
    pub path: PathBuf,
    /// Values of the model.
    pub parameters: u64,
    /// Bits a value takes on average, scales and biases included.
    pub bits_per_weight: f64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bytes of all tensors of the original.
    pub source_bytes: u64,
    /// Every matrix by its path, with its scheme; `None` if it is dense.
    pub matrices: Vec<(String, Option<Scheme>)>,
}

impl std::fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {:.3} bits per weight, {:.1} MB (was {:.1} MB)",
            self.path.display(),
            self.bits_per_weight,
            self.bytes as f64 / 1e6,
            self.source_bytes as f64 / 1e6
        )
    }
}

/// Quantizes a checkpoint into a new directory, a few rows at a time, with MLX's own operation on
/// the CPU: every array equals to the bit what `mx.quantize` makes of the stored tensor.
///
/// The output appears under its name when it is complete and on the disk. The tokenizer's files
/// are copied, and a model card is written.
///
/// # Errors
/// [`Error::NotQuantizable`] if rows do not divide into groups, [`Error::AlreadyQuantized`],
/// [`Error::Option`] for an override that names nothing, [`Error::OutputExists`], [`Error::Io`],
/// [`Error::Interrupted`].
pub fn quantize(
    source: &Checkpoint,
    output: &Path,
    options: &QuantizeOptions,
    on_progress: OnProgress<'_>,
) -> Result<QuantizeReport> {
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
    let dtype = options.dtype.map(stored).transpose()?;
    let mut units = units(source, &config);
    for unit in &mut units {
        unit.dtype = dtype.unwrap_or(unit.dtype);
    }
    check_patterns(options, &units)?;
    let mut problems = Vec::new();
    let mut schemes = std::collections::BTreeMap::new();
    let matrices = units.iter_mut().filter(|unit| unit.slot.kind == Kind::Matrix);
    for unit in matrices {
        let path = unit.slot.prefix();
        unit.scheme = options.scheme_for(path, config.n_layer, config.tie_embeddings);
        let Some(scheme) = unit.scheme else { continue };
        if let Err(error) = scheme.packed_columns(unit.slot.shape[1]) {
            let (name, reason) = (unit.slot.name.clone(), error.to_string());
            problems.push(TensorProblem::Scheme { name, reason });
        }
        schemes.insert(path.to_owned(), scheme);
    }
    if !problems.is_empty() {
        return Err(Error::NotQuantizable { path: source.path().to_owned(), problems });
    }
    config.quantization = Quantization::with_default(options.scheme, &schemes);
    let matrices = units.iter().filter(|unit| unit.slot.kind == Kind::Matrix);
    let matrices = matrices.map(|unit| (unit.slot.prefix().to_owned(), unit.scheme)).collect();
    let job = Job {
        source,
        config,
        units,
        output,
        overwrite: options.overwrite,
        shard_bytes: options.shard_bytes,
        made_from: "Quantized from",
        format: "mlx",
    };
    let path = job.run(on_progress)?;
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

/// A pattern that names no matrix is a typing mistake.
fn check_patterns(options: &QuantizeOptions, units: &[Unit]) -> Result<()> {
    let matrices = || units.iter().filter(|unit| unit.slot.kind == Kind::Matrix);
    for exception in &options.overrides {
        if !matrices().any(|unit| exception.matches(unit.slot.prefix())) {
            return Err(Error::Option {
                option: "override",
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
    fn patterns_name_whole_paths_or_their_last_parts() {
        let path = "backbone.layers.13.mlp.down_proj";
        for (pattern, expected) in [
            ("backbone.layers.13.mlp.down_proj", true),
            ("down_proj", true),
            ("mlp.down_proj", true),
            ("backbone.layers.*.down_proj", true),
            ("layers.1*.mlp.*", true),
            ("*", true),
            ("own_proj", false),
            ("down", false),
            ("layers.3.mlp.down_proj", false),
            ("*.up_proj", false),
            ("mlp*mlp", false),
        ] {
            let scheme = None;
            let found = Override { pattern: pattern.into(), scheme }.matches(path);
            assert_eq!(found, expected, "{pattern}");
        }
    }

    #[test]
    fn overrides_are_read_as_documented() {
        let base = Scheme::new(32, 4, Mode::Affine).unwrap();
        let scheme = |text: &str| Override::parse(text, base).map(|o| o.scheme);
        assert_eq!(scheme("lm_head=none").unwrap(), None);
        assert_eq!(scheme("a=6").unwrap(), Some(Scheme::new(32, 6, Mode::Affine).unwrap()));
        assert_eq!(scheme("a=8:128").unwrap(), Some(Scheme::new(128, 8, Mode::Affine).unwrap()));
        assert_eq!(scheme("a=mxfp8").unwrap(), Some(Scheme::new(32, 8, Mode::Mxfp8).unwrap()));
        for bad in ["a", "a=", "a=7", "a=4:33", "a=x"] {
            assert!(matches!(scheme(bad), Err(Error::Option { .. })), "{bad}");
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
