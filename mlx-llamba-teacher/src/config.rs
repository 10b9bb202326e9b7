//! The sizes and switches of a Llama, and of the families that differ from it in a few of them.
//!
//! Mistral has a sliding window, Qwen2 biases of queries, keys and values, Qwen3 norms of queries
//! and keys; Phi-3 stores several projections in one matrix.

use std::path::Path;

use mlx_llamba::error::FieldProblem;
use mlx_llamba::files::{Fields, Problems, json};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::limits;
use crate::rope::Rope;

/// The sizes and switches of a Llama, under the names of Hugging Face's `config.json`.
///
/// A configuration that was read from a file is valid: every size is at least 1, no product of
/// sizes overflows, `num_key_value_heads` divides `num_attention_heads`, and `head_dim` is even.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream, `d`.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads, `h`.
    pub num_attention_heads: usize,
    /// Key and value heads, `g`; query head `i` reads head `i / (h / g)`.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Epsilon of all norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// The scaling of those wavelengths.
    pub rope: Rope,
    /// The number of tokens of the longest text in its training.
    pub max_position_embeddings: usize,
    /// The head shares the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// The projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The projection from the heads to the residual stream has a bias.
    pub out_bias: bool,
    /// Queries and keys of every head are normalized before they are rotated.
    pub qk_norm: bool,
    /// The number of tokens that a token attends to, including itself; `None`: all before it.
    pub sliding_window: Option<usize>,
    /// The three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Id that begins a text.
    pub bos: Option<u32>,
    /// Ids that end a text.
    pub eos: Vec<u32>,
}

impl LlamaConfig {
    /// Parses a `config.json`. Errors call it `path`.
    ///
    /// # Errors
    /// [`Error::Architecture`] for unsupported families; [`Error::Config`] with every bad field;
    /// [`mlx_llamba::Error::Json`].
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let value: Value = json::from_slice(text.as_bytes())
            .map_err(|source| mlx_llamba::Error::Json { path: path.to_owned(), source })?;
        let problems = Problems::default();
        let config = match &value {
            Value::Object(object) => {
                let family = family(&value).map_err(|found| Error::Architecture {
                    path: path.to_owned(),
                    reason: refusal(&found),
                    found,
                })?;
                read(family, &Fields::new(object, &problems), &problems)
            }
            other => {
                problems.add("config", other, "an object");
                None
            }
        };
        problems.into_result(config).map_err(|problems| bad(path, problems))
    }

    /// Returns the configuration as a `config.json` for [`from_json`](Self::from_json) and Hugging
    /// Face's libraries.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            more => json!(more),
        };
        let (class, kind) = if self.qk_norm {
            ("Qwen3ForCausalLM", "qwen3")
        } else if self.qkv_bias && !self.out_bias {
            ("Qwen2ForCausalLM", "qwen2")
        } else if self.sliding_window.is_some() {
            ("MistralForCausalLM", "mistral")
        } else {
            ("LlamaForCausalLM", "llama")
        };
        let mut json = json!({
            "architectures": [class],
            "model_type": kind,
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope.to_json(),
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.qkv_bias && self.out_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        if self.sliding_window.is_some() {
            json["sliding_window"] = self.sliding_window.into();
        }
        json
    }

    /// Returns names and shapes of all tensors, in the order in which a forward pass meets them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, m) = (self.hidden_size, self.intermediate_size);
        let query = self.num_attention_heads * self.head_dim;
        let key = self.num_key_value_heads * self.head_dim;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d])];
        for i in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                all.push((format!("model.layers.{i}.{name}"), shape));
            };
            let mut matrix = |name: &str, rows: usize, columns: usize, bias: bool| {
                add(&format!("{name}.weight"), vec![rows, columns]);
                if bias {
                    add(&format!("{name}.bias"), vec![rows]);
                }
            };
            matrix("self_attn.q_proj", query, d, self.qkv_bias);
            matrix("self_attn.k_proj", key, d, self.qkv_bias);
            matrix("self_attn.v_proj", key, d, self.qkv_bias);
            matrix("self_attn.o_proj", d, query, self.out_bias);
            matrix("mlp.gate_proj", m, d, self.mlp_bias);
            matrix("mlp.up_proj", m, d, self.mlp_bias);
            matrix("mlp.down_proj", d, m, self.mlp_bias);
            if self.qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
            add("input_layernorm.weight", vec![d]);
            add("post_attention_layernorm.weight", vec![d]);
        }
        all.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        all
    }

    /// The number of values of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The size in bytes of the keys and values of a token in all layers, at `bytes` per number.
    pub fn cache_bytes_per_token(&self, bytes: usize) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * bytes
    }

    /// Adds problems of sizes that do not fit each other.
    pub(crate) fn check(&self, problems: &Problems) {
        let (h, g) = (self.num_attention_heads, self.num_key_value_heads);
        if !h.is_multiple_of(g) {
            problems.add("num_key_value_heads", g, format!("a divisor of the {h} query heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.add("head_dim", self.head_dim, "an even number: positions turn pairs");
        }
        let widest = self.vocab_size.max(h * self.head_dim).max(self.intermediate_size);
        if widest * self.hidden_size > limits::ELEMENTS {
            let found = format!("{} beside {widest} rows", self.hidden_size);
            problems.add("hidden_size", found, format!("at most {} elements", limits::ELEMENTS));
        }
    }
}

/// An error about a configuration's fields.
pub(crate) fn bad(path: &Path, problems: Vec<FieldProblem>) -> Error {
    Error::Config { path: path.to_owned(), problems }
}

/// The supported families, with the names of their classes.
const FAMILIES: [(&str, &str); 5] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
];

/// Returns the family that a configuration names.
///
/// # Errors
/// The name, if it is none of [`FAMILIES`].
fn family(config: &Value) -> Result<&'static str, String> {
    let kind = config["model_type"].as_str().unwrap_or("nameless");
    let Some((family, expected)) = FAMILIES.into_iter().find(|(family, _)| *family == kind) else {
        return Err(kind.to_owned());
    };
    match config["architectures"][0].as_str() {
        Some(class) if class != expected => Err(class.to_owned()),
        _ => Ok(family),
    }
}

/// Explains why a family is not supported.
pub(crate) fn refusal(found: &str) -> &'static str {
    let found = found.to_lowercase();
    let reasons = [
        ("moe", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("mixtral", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("gemma", "its norms and its scaling of embeddings and logits differ from Llama's"),
        ("gpt2", "it has learned positions and LayerNorm instead of rotary positions and RMSNorm"),
        ("gpt_neox", "its blocks run attention and MLP in parallel, with LayerNorm"),
        ("falcon", "its blocks run attention and MLP in parallel, with LayerNorm"),
        ("phimoe", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("mamba", "it is no Transformer and has no attention to distill"),
        ("smollm3", "some of its layers have no positions"),
        ("granite", "it multiplies embeddings, residuals and logits by factors of its own"),
        ("classification", "it has no head that predicts tokens"),
    ];
    let reason = reasons.into_iter().find(|(part, _)| found.contains(part));
    reason.map_or("it is no family that is known here", |(_, reason)| reason)
}

fn read(family: &str, f: &Fields<'_>, problems: &Problems) -> Option<LlamaConfig> {
    use limits::{CONTEXT, HEADS, LAYERS, VOCAB, WIDTH};
    let vocab_size = f.size("vocab_size", None, VOCAB);
    let hidden_size = f.size("hidden_size", None, WIDTH);
    let intermediate_size = f.size("intermediate_size", None, WIDTH);
    let num_hidden_layers = f.size("num_hidden_layers", None, LAYERS);
    let heads = f.size("num_attention_heads", None, HEADS);
    let kv_heads = f.size("num_key_value_heads", heads, HEADS);
    let derived = match family {
        "qwen3" => Some(128), // the default of its configuration
        _ => hidden_size.zip(heads).map(|(d, h)| (d / h).max(1)),
    };
    let head_dim = f.size("head_dim", derived, WIDTH);
    if let (None, Some((d, h))) = (f.get("head_dim"), hidden_size.zip(heads))
        && family != "qwen3"
        && !d.is_multiple_of(h)
    {
        f.add("num_attention_heads", h, format!("a divisor of hidden_size = {d}"));
    }
    let rms_norm_eps = f.epsilon("rms_norm_eps", if family == "phi3" { 1e-5 } else { 1e-6 });
    let context = match family {
        "mistral" => 1 << 17,
        "qwen2" | "qwen3" => 1 << 15,
        "phi3" => 4096,
        _ => 2048,
    };
    let max_position_embeddings = f.size("max_position_embeddings", Some(context), CONTEXT);
    let tie_word_embeddings = f.flag("tie_word_embeddings", Some(false));
    // Each family has its own switches, and ignores those of others.
    let switch = |key: &str, families: &[&str]| match families.contains(&family) {
        true => f.flag(key, Some(false)),
        false => Some(false),
    };
    let attention_bias = switch("attention_bias", &["llama", "qwen3"]);
    let mlp_bias = switch("mlp_bias", &["llama"]);
    let sliding_window = match family {
        "mistral" | "phi3" if f.get("sliding_window").is_some() => {
            f.size("sliding_window", None, CONTEXT).map(Some)
        }
        _ => Some(None),
    };
    if switch("use_sliding_window", &["qwen2", "qwen3"]) == Some(true) {
        f.add("use_sliding_window", true, "false: windows of some layers only are not known here");
    }
    if let Some(found) = f
        .get("hidden_act")
        .filter(|found| !["silu", "swish"].contains(&found.as_str().unwrap_or("")))
    {
        f.add("hidden_act", found, "\"silu\"");
    }
    if let Some(found) = f.get("partial_rotary_factor").filter(|found| found.as_f64() != Some(1.0))
    {
        f.add("partial_rotary_factor", found, "1: a Llamba's teacher turns whole heads");
    }
    if let Some(found) = f.get("quantization_config") {
        let method = &found["quant_method"];
        f.add("quantization_config", method, "none: give the model as it was before, or a GGUF");
    }
    // Newer files have one block with the base and the scaling, older ones two fields.
    let block = f.get("rope_parameters").or_else(|| f.get("rope_scaling"));
    if let Some(other) = block.filter(|block| !block.is_object()) {
        f.add("rope_scaling", other, "an object");
    }
    let block = block.and_then(Value::as_object);
    let rope = match block {
        Some(block) => {
            max_position_embeddings.and_then(|context| Rope::parse(block, context, problems))
        }
        None => Some(Rope::Default),
    };
    let base = block.filter(|b| b.contains_key("rope_theta")).map(|b| Fields::new(b, problems));
    let rope_theta =
        base.unwrap_or(*f).number("rope_theta", Some(10000.0), "a number above 1", |base| {
            base > 1.0 && base < 1e12
        });
    let config = LlamaConfig {
        vocab_size: vocab_size?,
        hidden_size: hidden_size?,
        intermediate_size: intermediate_size?,
        num_hidden_layers: num_hidden_layers?,
        num_attention_heads: heads?,
        num_key_value_heads: kv_heads?,
        head_dim: head_dim?,
        rms_norm_eps: rms_norm_eps?,
        rope_theta: rope_theta?,
        rope: rope?,
        max_position_embeddings: max_position_embeddings?,
        tie_word_embeddings: tie_word_embeddings?,
        qkv_bias: attention_bias? || family == "qwen2",
        out_bias: attention_bias?,
        qk_norm: family == "qwen3",
        sliding_window: sliding_window?,
        mlp_bias: mlp_bias?,
        bos: f.ids("bos_token_id").first().copied(),
        eos: f.ids("eos_token_id"),
    };
    config.check(problems);
    Some(config)
}
