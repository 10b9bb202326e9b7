//! The tensors of a directory of safetensors files: floats, or codes as `mlx-lm` stores them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use mlx_llamba::config::Quantization;
use mlx_llamba::error::TensorProblem;
use mlx_llamba::files::{StoredTensor, TensorFiles};
use mlx_llamba::kernels::{Mode, Quantized, Scheme, Weight};
use mlx_llamba::{Error, Result};
use mlx_rs::Array;
use mlx_rs::ops::split_at_indices;
use safetensors::Dtype;

use crate::check::{check_shapes, missing};
use crate::config::LlamaConfig;
use crate::factors::Factors;

/// A directory's tensors, with valid headers.
pub(crate) struct Stored {
    files: TensorFiles,
    config: LlamaConfig,
    factors: Factors,
    ignored: BTreeSet<String>,
    /// The schemes of matrices of codes, by their names without `.weight`.
    schemes: BTreeMap<String, Scheme>,
}

impl Stored {
    /// Compares the tensors with the configuration.
    pub(crate) fn new(
        path: &Path,
        files: TensorFiles,
        config: LlamaConfig,
        factors: Factors,
        quantization: Option<&Quantization>,
    ) -> Result<Self> {
        let ignored = ignored(&files, &config);
        let mut stored = Self { files, config, factors, ignored, schemes: BTreeMap::new() };
        let mut problems = Vec::new();
        let mut schemes = BTreeMap::new();
        for prefix in
            stored.files.tensors().filter_map(|tensor| tensor.name().strip_suffix(".weight"))
        {
            let codes = stored.part(prefix, "scales").is_some();
            let wanted = quantization.and_then(|block| match block.overrides.get(prefix) {
                Some(scheme) => *scheme,
                None => codes.then_some(block.scheme),
            });
            if let Some(scheme) = wanted {
                problems.extend(stored.check_codes(prefix, scheme).err());
                schemes.insert(prefix.to_owned(), scheme);
            }
        }
        stored.schemes = schemes;
        let floats = stored.kept().filter(|tensor| stored.scheme_of(tensor.name()).is_none());
        problems.extend(floats.filter_map(check_dtype));
        if !problems.is_empty() {
            return Err(Error::Tensors { path: path.to_owned(), problems });
        }
        let all = stored.tensors();
        let parts =
            all.iter().flat_map(|(name, _, shape, _)| parts_of(&stored.config, name, shape));
        let parts: Vec<_> = parts.collect();
        let parts = parts.iter().map(|(name, shape)| (name.as_str(), shape.clone()));
        check_shapes(path, &stored.config, parts)?;
        Ok(stored)
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Returns a tensor by its canonical name. Lazy.
    pub(crate) fn weight(&self, name: &str) -> Result<Weight> {
        let part = part_of(&self.config, name).filter(|_| self.files.tensor(name).is_none());
        let (whole, rows) =
            part.map_or((name.to_owned(), None), |(whole, rows)| (whole, Some(rows)));
        let array = |name: &str| -> Result<Array> {
            let array = self.files.array(name)?;
            let Some(Range { start, end }) = rows.clone() else { return Ok(array) };
            let parts = split_at_indices(array, &[start as i32, end as i32], 0)?;
            parts.into_iter().nth(1).ok_or_else(|| missing(self.files.path(), name))
        };
        let weight = match whole.strip_suffix(".weight").zip(self.scheme_of(&whole)) {
            None => Weight::Dense(array(&whole)?),
            Some((prefix, scheme)) => Weight::Quantized(Quantized {
                weight: array(&whole)?,
                scales: array(&format!("{prefix}.scales"))?,
                biases: match scheme.mode.has_biases() {
                    true => Some(array(&format!("{prefix}.biases"))?),
                    false => None,
                },
                scheme,
            }),
        };
        self.factors.apply(&self.config, name, weight)
    }

    /// Returns name, type, shape and size in bytes of every tensor; a matrix of codes is one, with the shape of
    /// its values.
    pub(crate) fn tensors(&self) -> Vec<(String, String, Vec<usize>, usize)> {
        let kept = self.kept().filter(|tensor| !self.is_scale(tensor.name()));
        kept.map(|tensor| {
            let name = tensor.name();
            let (mut kind, mut shape) = (tensor.dtype().to_string(), tensor.shape().to_vec());
            let mut bytes = tensor.bytes().len();
            if let Some(scheme) = self.scheme_of(name) {
                kind = format!("{} bits", scheme.bits);
                if let [.., words] = &mut shape[..] {
                    *words = *words * 32 / scheme.bits;
                }
                let prefix = name.trim_end_matches(".weight");
                let parts = ["scales", "biases"].map(|part| self.part(prefix, part));
                bytes += parts.iter().flatten().map(|part| part.bytes().len()).sum::<usize>();
            }
            (name.to_owned(), kind, shape, bytes)
        })
        .collect()
    }

    fn kept(&self) -> impl Iterator<Item = &StoredTensor> {
        self.files.tensors().filter(|tensor| !self.ignored.contains(tensor.name()))
    }

    fn part(&self, prefix: &str, part: &str) -> Option<&StoredTensor> {
        self.files.tensor(&format!("{prefix}.{part}"))
    }

    /// The scheme of a matrix of codes, or of its scales.
    fn scheme_of(&self, name: &str) -> Option<Scheme> {
        let (prefix, part) = name.rsplit_once('.')?;
        let scheme = self.schemes.get(prefix).copied();
        scheme.filter(|_| matches!(part, "weight" | "scales" | "biases"))
    }

    /// True for the scales and biases of a matrix of codes.
    fn is_scale(&self, name: &str) -> bool {
        self.scheme_of(name).is_some() && !name.ends_with(".weight")
    }

    /// Compares the parts of a matrix of codes with its scheme.
    fn check_codes(&self, prefix: &str, scheme: Scheme) -> Result<(), TensorProblem> {
        let name = || format!("{prefix}.weight");
        let wrong = |reason: String| TensorProblem::Scheme { name: name(), reason };
        let Some((weight, &[rows, words])) = self
            .part(prefix, "weight")
            .and_then(|w| Some((w, <&[usize; 2]>::try_from(w.shape()).ok()?)))
        else {
            return Err(wrong("it is no matrix".into()));
        };
        if weight.dtype() != Dtype::U32 {
            let (found, expected) = (weight.dtype().to_string(), "U32".into());
            return Err(TensorProblem::Dtype { name: name(), found, expected });
        }
        let columns = words * 32 / scheme.bits;
        match scheme.packed_columns(columns) {
            Ok(packed) if packed == words => {}
            Ok(_) => {
                return Err(wrong(format!("{words} words hold no rows of {} bits", scheme.bits)));
            }
            Err(error) => return Err(wrong(error.to_string())),
        }
        let coded = scheme.mode != Mode::Affine;
        for part in ["scales", "biases"] {
            if part == "biases" && !scheme.mode.has_biases() {
                continue;
            }
            let name = format!("{prefix}.{part}");
            let expected = vec![rows, columns / scheme.group_size];
            let Some(found) = self.part(prefix, part) else {
                return Err(TensorProblem::Missing { name, expected });
            };
            if found.shape() != expected {
                return Err(TensorProblem::Shape { name, found: found.shape().to_vec(), expected });
            }
            if coded != (found.dtype() == Dtype::U8) || !coded && check_dtype(found).is_some() {
                let expected = if coded { "U8" } else { "F32, F16 or BF16" }.to_owned();
                return Err(TensorProblem::Dtype {
                    name,
                    found: found.dtype().to_string(),
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// The matrices that some families store in one, one below the other: Phi-3's queries, keys and
/// values, and the gate and input of its MLP.
fn fused(config: &LlamaConfig) -> [(&'static str, Vec<(&'static str, usize)>); 2] {
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let m = config.intermediate_size;
    [
        ("self_attn.qkv_proj.weight", vec![("q_proj", query), ("k_proj", key), ("v_proj", key)]),
        ("mlp.gate_up_proj.weight", vec![("gate_proj", m), ("up_proj", m)]),
    ]
}

/// Returns the matrix that may contain a canonical tensor, and the rows of the tensor in it.
fn part_of(config: &LlamaConfig, name: &str) -> Option<(String, Range<usize>)> {
    for (whole, parts) in fused(config) {
        let module = whole.split('.').next().unwrap_or_default();
        let mut from = 0;
        for (part, rows) in parts {
            if let Some(layer) = name.strip_suffix(&format!("{module}.{part}.weight")) {
                return Some((format!("{layer}{whole}"), from..from + rows));
            }
            from += rows;
        }
    }
    None
}

/// Returns the canonical names and shapes of a stored tensor, which may hold several matrices.
fn parts_of(config: &LlamaConfig, name: &str, shape: &[usize]) -> Vec<(String, Vec<usize>)> {
    for (whole, parts) in fused(config) {
        let rows = parts.iter().map(|(_, rows)| rows).sum::<usize>();
        if let (Some(layer), &[found, columns]) = (name.strip_suffix(whole), shape)
            && found == rows
        {
            let module = whole.split('.').next().unwrap_or_default();
            let part =
                |(part, rows)| (format!("{layer}{module}.{part}.weight"), vec![rows, columns]);
            return parts.into_iter().map(part).collect();
        }
    }
    vec![(name.to_owned(), shape.to_vec())]
}

fn check_dtype(tensor: &StoredTensor) -> Option<TensorProblem> {
    (!matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16)).then(|| {
        TensorProblem::Dtype {
            name: tensor.name().to_owned(),
            found: tensor.dtype().to_string(),
            expected: "F32, F16 or BF16".into(),
        }
    })
}

/// True for redundant tensors that some tools write: rotary frequencies, and a tied head that equals
/// the embedding bit for bit.
fn ignored(files: &TensorFiles, config: &LlamaConfig) -> BTreeSet<String> {
    let head = "lm_head.weight";
    let bytes = |name: &str| files.tensor(name).map(StoredTensor::bytes);
    let twice = config.tie_word_embeddings
        && bytes(head).is_some()
        && bytes(head) == bytes("model.embed_tokens.weight");
    let says_nothing = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == head && twice;
    let names = files.tensors().map(|tensor| tensor.name().to_owned());
    names.filter(|name| says_nothing(name)).collect()
}
