//! Configuration and weights of a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mlx_llamba::error::TensorProblem;
use mlx_llamba::files::{Fields, Problems, Source, StoredTensor, TensorHeader, floats_of};
use mlx_llamba::kernels::Weight;
use mlx_rs::Array;
use mlx_rs::ops::swap_axes;
use serde_json::Value;

use super::file::{File, Stored, shown};
use crate::check::check_shapes;
use crate::config::{LlamaConfig, bad, no_rope, refusal};
use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::rope::Rope;

/// Parts of a block: GGUF's names and Hugging Face's.
const PARTS: [(&str, &str); 11] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];
/// The supported architectures, and true for those whose queries and keys are stored with the values of a
/// pair beside each other.
const ARCHITECTURES: [(&str, bool); 5] =
    [("llama", true), ("qwen2", false), ("qwen3", false), ("granite", true), ("smollm3", true)];
/// Every layer of this number of SmolLM3 turns nothing; llama.cpp has no field for it.
const NO_ROPE_INTERVAL: usize = 4;
/// The factors of the rotary wavelengths, one per pair.
const FACTORS: &str = "rope_freqs.weight";

/// A GGUF file of a Llama, with exactly the tensors that it needs.
#[derive(Debug)]
pub(crate) struct Gguf {
    /// The file, or its parts.
    sources: Vec<Arc<Source>>,
    file: File,
    config: LlamaConfig,
    factors: Factors,
    /// True if the rows of queries and keys stand in llama.cpp's own order.
    paired: bool,
    /// The file's names by the canonical ones.
    names: BTreeMap<String, String>,
}

impl Gguf {
    /// Reads and checks the header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (sources, file) = File::open(path)?;
        let (config, factors, paired) = config(path, &sources, &file)?;
        let names: BTreeMap<String, String> = file
            .tensors
            .keys()
            .filter(|name| *name != FACTORS)
            .map(|name| (canonical(name).unwrap_or_else(|| shown(name)), name.clone()))
            .collect();
        let shapes =
            names.iter().map(|(name, own)| (name.as_str(), file.tensors[own].shape.clone()));
        check_shapes(path, &config, shapes)?;
        Ok(Self { sources, file, config, factors, paired, names })
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Returns canonical name, type, shape and size in bytes of every tensor.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, String, &[usize], usize)> {
        self.names.iter().map(|(name, own)| {
            let Stored { shape, kind, range, .. } = &self.file.tensors[own];
            (name.as_str(), kind.to_string(), shape.as_slice(), range.len())
        })
    }

    /// Returns a tensor by its canonical name. Floats are read when they are evaluated, quantized
    /// matrices now.
    pub(crate) fn weight(&self, name: &str) -> mlx_llamba::Result<Weight> {
        let stored = &self.file.tensors[&self.names[name]];
        let turned = self.paired && (name.contains("q_proj") || name.contains("k_proj"));
        let weight = weight(&self.sources[stored.part], &self.config, name, stored, turned)?;
        self.factors.apply(&self.config, name, weight)
    }
}

/// Hugging Face's name of a tensor.
fn canonical(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, k)| matches!(*k, "weight" | "bias"))?;
    let stem = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            let (_, part) = PARTS.iter().find(|(own, _)| *own == part)?;
            format!("model.layers.{layer}.{part}")
        }
    };
    Some(format!("{stem}.{kind}"))
}

/// Returns the configuration, the factors of the weights, and true for rows in llama.cpp's own order.
fn config(
    path: &Path,
    sources: &[Arc<Source>],
    file: &File,
) -> Result<(LlamaConfig, Factors, bool)> {
    use crate::limits::{CONTEXT, HEADS, LAYERS, VOCAB, WIDTH};
    let kind = file.metadata.values.get("general.architecture").and_then(Value::as_str);
    let known = ARCHITECTURES.into_iter().find(|(name, _)| Some(*name) == kind);
    let Some((architecture, paired)) = known else {
        let found = shown(kind.unwrap_or("nameless"));
        let reason = match kind {
            Some("phi3") => "it is read from Hugging Face's files only, not from a GGUF file",
            _ => refusal(&found),
        };
        return Err(Error::Architecture { path: path.to_owned(), reason, found });
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let problems = Problems::default();
    let f = Fields::new(&file.metadata.values, &problems);
    // From the embedding, since not every file has the number of tokens in its metadata.
    let embedding = file.tensors.get("token_embd.weight").map_or(&[][..], |t| &t.shape);
    let vocab_size = embedding.first().copied().filter(|&size| size <= VOCAB);
    if vocab_size.is_none() {
        problems.add("token_embd.weight", "missing", "an embedding");
    }
    let hidden_size = f.size(&key("embedding_length"), None, WIDTH);
    let heads = f.size(&key("attention.head_count"), None, HEADS);
    let derived = hidden_size.zip(heads).map(|(d, h)| (d / h).max(1));
    let head_dim = f.size(&key("attention.key_length"), derived, WIDTH);
    for key in [key("attention.value_length"), key("rope.dimension_count")] {
        if f.size(&key, head_dim, WIDTH) != head_dim {
            let expected = format!("the width of a head, {}", head_dim.unwrap_or(0));
            let found = f.get(&key).unwrap_or(&Value::Null);
            f.add(&key, found, expected);
        }
    }
    if let Some(experts) = f.get(&key("expert_count")).filter(|n| n.as_u64() != Some(0)) {
        f.add(&key("expert_count"), experts, "none: one MLP a block");
    }
    let id = |key: &str| f.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let eos = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
    let mut eos: Vec<u32> = eos.into_iter().filter_map(id).collect();
    eos.dedup();
    let num_hidden_layers = f.size(&key("block_count"), None, LAYERS);
    let intermediate_size = f.size(&key("feed_forward_length"), None, WIDTH);
    let num_key_value_heads = f.size(&key("attention.head_count_kv"), heads, HEADS);
    let rms_norm_eps = f.epsilon(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    let base = |base| base > 1.0 && base < 1e12;
    let rope_theta = f.number(&key("rope.freq_base"), Some(10000.0), "a number above 1", base);
    let max_position_embeddings = f.size(&key("context_length"), None, CONTEXT);
    let rope = head_dim
        .zip(rope_theta)
        .and_then(|(k, base)| rope(sources, file, &f, architecture, k, base));
    let has = |name: &str| file.tensors.contains_key(name);
    let config = || {
        Some(LlamaConfig {
            vocab_size: vocab_size?,
            hidden_size: hidden_size?,
            intermediate_size: intermediate_size?,
            num_hidden_layers: num_hidden_layers?,
            num_attention_heads: heads?,
            num_key_value_heads: num_key_value_heads?,
            head_dim: head_dim?,
            rms_norm_eps: rms_norm_eps?,
            rope_theta: rope_theta?,
            rope: rope?,
            rotary_dim: head_dim?,
            no_rope: match architecture {
                "smollm3" => no_rope(NO_ROPE_INTERVAL, num_hidden_layers?),
                _ => Vec::new(),
            },
            max_position_embeddings: max_position_embeddings?,
            tie_word_embeddings: !has("output.weight"),
            qkv_bias: has("blk.0.attn_q.bias"),
            out_bias: has("blk.0.attn_output.bias"),
            qk_norm: has("blk.0.attn_q_norm.weight"),
            sliding_window: None,
            mlp_bias: has("blk.0.ffn_gate.bias"),
            bos: id("tokenizer.ggml.bos_token_id"),
            eos,
        })
    };
    let factors = match architecture {
        "granite" => {
            let keys = ["embedding_scale", "attention.scale", "residual_scale", "logit_scale"];
            Factors::parse(&f, keys.map(key), None)
        }
        _ => Factors::NONE,
    };
    let config = config().inspect(|config| config.check(&problems));
    let config = problems.into_result(config).map_err(|problems| bad(path, problems))?;
    Ok((config, factors, paired))
}

/// Returns the scaling of the positions, by its kind and factor in the metadata, or as factors in a
/// tensor, of which only Llama 3's are known.
fn rope(
    sources: &[Arc<Source>],
    file: &File,
    f: &Fields<'_>,
    architecture: &str,
    k: usize,
    base: f64,
) -> Option<Rope> {
    let own = |name: &str| format!("{architecture}.rope.{name}");
    let kind = f.get(&own("scaling.type")).map(|kind| kind.as_str().unwrap_or("?"));
    // As llama.cpp reads it: a factor without a kind is a linear one, older files have another key,
    // and 0 is none.
    let keys = [own("scaling.factor"), own("scale_linear")];
    let key = keys.iter().find(|key| f.get(key).is_some()).unwrap_or(&keys[0]);
    let factor = || {
        let legal = |factor| factor == 0.0 || factor >= 1.0;
        f.number(key, Some(1.0), "from 1 on", legal).map(|factor| factor.max(1.0))
    };
    let factor = match kind {
        Some("none") => 1.0,
        None | Some("linear") => factor()?,
        Some(other) => {
            f.add(&own("scaling.type"), other, "\"none\" or \"linear\"");
            return None;
        }
    };
    let turned = f.number(&own("scaling.attn_factor"), Some(1.0), "1", |factor| factor == 1.0);
    turned?;
    let Some(stored) = file.tensors.get(FACTORS) else {
        return Some(if factor > 1.0 { Rope::Linear { factor } } else { Rope::Default });
    };
    if factor > 1.0 {
        f.add(key, factor, format!("no factor beside those in {FACTORS}"));
        return None;
    }
    let bytes = sources[stored.part].bytes().get(stored.range.clone()).unwrap_or_default();
    let factors: Vec<f64> = floats_of(bytes).into_iter().map(f64::from).collect();
    let llama3 = Rope::Llama3 {
        factor: factors.iter().fold(1.0, |a, &b| a.max(b)),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    let plain = Rope::Default.wavelengths(k, base, 0);
    let fits =
        factors.len() == plain.len()
            && llama3.wavelengths(k, base, 0).iter().zip(plain).zip(&factors).all(
                |((stretched, plain), factor)| (stretched / plain - factor).abs() < 1e-3 * factor,
            );
    if !fits || stored.kind.float() != Some(safetensors::Dtype::F32) {
        f.add(FACTORS, format!("{} factors", factors.len()), "those of Llama 3");
        return None;
    }
    Some(llama3)
}

/// A tensor under its canonical name.
fn weight(
    source: &Arc<Source>,
    config: &LlamaConfig,
    name: &str,
    stored: &Stored,
    turned: bool,
) -> mlx_llamba::Result<Weight> {
    // llama.cpp turns neighbouring values of a head, (0, 1), (2, 3), ..; checkpoints elsewhere
    // turn (0, k/2), (1, k/2 + 1), ..: rows of queries and keys that it turns stand in another order.
    let k = config.head_dim;
    if let Some(dtype) = stored.kind.float() {
        let header = TensorHeader { name: name.to_owned(), dtype, shape: stored.shape.clone() };
        let array = StoredTensor::new(source, header, stored.range.clone())?.array()?;
        return Ok(Weight::Dense(if turned { halves(&array, k as i32)? } else { array }));
    }
    let &[rows, columns] = stored.shape.as_slice() else {
        let problem = TensorProblem::Dtype {
            name: name.to_owned(),
            found: stored.kind.to_string(),
            expected: "F32, F16 or BF16".into(),
        };
        let path = source.path().to_owned();
        return Err(mlx_llamba::Error::Tensors { path, problems: vec![problem] });
    };
    let order = |row: usize| match turned {
        true => row / k * k + row % (k / 2) * 2 + row % k / (k / 2),
        false => row,
    };
    let bytes = &source.bytes()[stored.range.clone()];
    let (weight, finite) = match stored.kind.values(bytes, [rows, columns], order) {
        Some((values, finite)) => (Weight::Dense(values), finite),
        None => {
            let unpacked = stored.kind.unpack(bytes, [rows, columns], order);
            let tensor = name.to_owned();
            let bad = |source| mlx_llamba::Error::Quantization { tensor, source };
            let (matrix, finite) = unpacked.map_err(bad)?;
            (Weight::Quantized(matrix), finite)
        }
    };
    source.release(stored.range.clone());
    if !finite {
        log::warn!("{}: tensor {name} holds NaN or infinity", source.path().display());
    }
    Ok(weight)
}

/// Reorders rows (or values of a bias) from adjacent pairs to pairs half a head apart.
fn halves(array: &Array, k: i32) -> mlx_rs::error::Result<Array> {
    let rows = array.dim(0);
    let pairs = array.reshape(&[rows / k, k / 2, 2, -1])?; // (heads, k / 2, 2, columns or 1)
    swap_axes(&pairs, 1, 2)?.reshape(array.shape())
}
