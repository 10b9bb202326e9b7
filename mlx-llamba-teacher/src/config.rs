//! The sizes and switches of a Llama.

use std::path::Path;

use mlx_llamba::FieldProblem;
use mlx_llamba::files::{Fields, Problems};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::rope::Rope;

/// Largest sizes: far above any model, and so small that no product overflows.
pub(crate) mod limit {
    pub(crate) const VOCAB: usize = 1 << 24;
    pub(crate) const WIDTH: usize = 1 << 20;
    pub(crate) const LAYERS: usize = 1 << 12;
    pub(crate) const HEADS: usize = 1 << 12;
    pub(crate) const CONTEXT: usize = 1 << 28;
    /// MLX counts the elements of an array in 31 bits in places.
    pub(crate) const ELEMENTS: usize = i32::MAX as usize;
}

/// Everything that decides a Llama's shapes and maths, under the names of Hugging Face's
/// `config.json`.
///
/// As read from a file it is valid: every size is at least 1, no product of sizes overflows,
/// `num_key_value_heads` divides `num_attention_heads`, and `head_dim` is even.
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
    /// What is done to those wavelengths.
    pub rope: Rope,
    /// Tokens of the longest text that it was trained on.
    pub max_position_embeddings: usize,
    /// The head uses the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// The four projections of the attention have biases.
    pub attention_bias: bool,
    /// The three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Id that begins a text.
    pub bos: Option<u32>,
    /// Ids that end a text.
    pub eos: Vec<u32>,
}

impl LlamaConfig {
    /// Reads a `config.json`; `path` only names it in errors.
    ///
    /// # Errors
    /// [`Error::Architecture`] for any model but a Llama; [`Error::Config`] with every bad field;
    /// [`mlx_llamba::Error::Json`].
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|source| mlx_llamba::Error::Json { path: path.to_owned(), source })?;
        let problems = Problems::default();
        let config = match &value {
            Value::Object(object) => {
                if let Some(found) = architecture(&value) {
                    return Err(Error::Architecture { path: path.to_owned(), found });
                }
                read(&Fields::new(object, &problems), &problems)
            }
            other => {
                problems.add("config", other, "an object");
                None
            }
        };
        problems.into_result(config).map_err(|problems| bad(path, problems))
    }

    /// What [`from_json`](Self::from_json) reads, as the libraries of Hugging Face read it too.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            more => json!(more),
        };
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        })
    }

    /// Names and shapes of all tensors, in the order in which a forward pass meets them.
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
            matrix("self_attn.q_proj", query, d, self.attention_bias);
            matrix("self_attn.k_proj", key, d, self.attention_bias);
            matrix("self_attn.v_proj", key, d, self.attention_bias);
            matrix("self_attn.o_proj", d, query, self.attention_bias);
            matrix("mlp.gate_proj", m, d, self.mlp_bias);
            matrix("mlp.up_proj", m, d, self.mlp_bias);
            matrix("mlp.down_proj", d, m, self.mlp_bias);
            add("input_layernorm.weight", vec![d]);
            add("post_attention_layernorm.weight", vec![d]);
        }
        all.push(("model.norm.weight".to_owned(), vec![d]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d]));
        }
        all
    }

    /// Values of all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of the keys and values of a token in all layers, of numbers of `bytes` each.
    pub fn cache_bytes_per_token(&self, bytes: usize) -> usize {
        2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * bytes
    }

    /// Notes sizes that do not fit each other.
    pub(crate) fn check(&self, problems: &Problems) {
        let (h, g) = (self.num_attention_heads, self.num_key_value_heads);
        if !h.is_multiple_of(g) {
            problems.add("num_key_value_heads", g, format!("a divisor of the {h} query heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.add("head_dim", self.head_dim, "an even number: positions turn pairs");
        }
        let widest = self.vocab_size.max(h * self.head_dim).max(self.intermediate_size);
        if widest * self.hidden_size > limit::ELEMENTS {
            let found = format!("{} beside {widest} rows", self.hidden_size);
            problems.add("hidden_size", found, format!("at most {} elements", limit::ELEMENTS));
        }
    }
}

/// An error about a configuration's fields.
pub(crate) fn bad(path: &Path, problems: Vec<FieldProblem>) -> Error {
    Error::Config { path: path.to_owned(), problems }
}

/// What the file says it is, unless that is a Llama.
fn architecture(config: &Value) -> Option<String> {
    let kind = config["model_type"].as_str().unwrap_or("nameless");
    let class = config["architectures"][0].as_str().filter(|&class| class != "LlamaForCausalLM");
    match (kind, class) {
        ("llama", None) => None,
        ("llama", Some(class)) => Some(class.to_owned()),
        (other, _) => Some(other.to_owned()),
    }
}

fn read(f: &Fields<'_>, problems: &Problems) -> Option<LlamaConfig> {
    use limit::{CONTEXT, HEADS, LAYERS, VOCAB, WIDTH};
    let vocab_size = f.size("vocab_size", None, VOCAB);
    let hidden_size = f.size("hidden_size", None, WIDTH);
    let intermediate_size = f.size("intermediate_size", None, WIDTH);
    let num_hidden_layers = f.size("num_hidden_layers", None, LAYERS);
    let heads = f.size("num_attention_heads", None, HEADS);
    let kv_heads = f.size("num_key_value_heads", heads, HEADS);
    let derived = hidden_size.zip(heads).map(|(d, h)| (d / h).max(1));
    let head_dim = f.size("head_dim", derived, WIDTH);
    if let (None, Some((d, h))) = (f.get("head_dim"), hidden_size.zip(heads))
        && !d.is_multiple_of(h)
    {
        f.add("num_attention_heads", h, format!("a divisor of hidden_size = {d}"));
    }
    let rms_norm_eps = f.epsilon("rms_norm_eps", 1e-6);
    let max_position_embeddings = f.size("max_position_embeddings", Some(2048), CONTEXT);
    let tie_word_embeddings = f.flag("tie_word_embeddings", Some(false));
    let attention_bias = f.flag("attention_bias", Some(false));
    let mlp_bias = f.flag("mlp_bias", Some(false));
    for (key, legal) in [("hidden_act", json!("silu")), ("partial_rotary_factor", json!(1.0))] {
        if let Some(found) = f.get(key).filter(|&found| *found != legal) {
            f.add(key, found, legal.to_string());
        }
    }
    if let Some(found) = f.get("quantization_config") {
        let method = &found["quant_method"];
        f.add("quantization_config", method, "none: give the model as it was before, or a GGUF");
    }
    // Newer files have one block with the base and the scaling, older ones two fields.
    let block = f.get("rope_parameters").or_else(|| f.get("rope_scaling"));
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
        attention_bias: attention_bias?,
        mlp_bias: mlp_bias?,
        bos: f.ids("bos_token_id").first().copied(),
        eos: f.ids("eos_token_id"),
    };
    config.check(problems);
    Some(config)
}
