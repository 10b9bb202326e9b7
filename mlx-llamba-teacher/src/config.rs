//! The sizes and switches of a Llama, and of the families that differ from it in a few of them.
//!
//! Mistral has a sliding window, Qwen2 biases of queries, keys and values, Qwen3 norms of queries
//! and keys; Phi-3 stores several projections in one matrix and may turn a part of each head only; some
//! layers of SmolLM3 turn nothing. Granite's factors become part of its weights ([`crate::factors`]).

mod read;

use std::path::Path;

use mlx_llamba::config::Quantization;
use mlx_llamba::error::FieldProblem;
use mlx_llamba::files::{Fields, Problems, json};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::limits;
use crate::rope::Rope;
use read::{family, read, schemes};
pub(crate) use read::{no_rope, refusal};

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
    /// The first values of a head that positions turn; the others stay as they are.
    pub rotary_dim: usize,
    /// The layers whose queries and keys no position turns.
    pub no_rope: Vec<usize>,
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
        Ok(Self::with_storage(path, text)?.0)
    }

    /// [`from_json`](Self::from_json), with the factors that are to become part of the weights, and the
    /// schemes of matrices of codes.
    pub(crate) fn with_storage(
        path: &Path,
        text: &str,
    ) -> Result<(Self, Factors, Option<Quantization>)> {
        let value: Value = json::from_slice(text.as_bytes())
            .map_err(|source| mlx_llamba::Error::Json { path: path.to_owned(), source })?;
        let (problems, mut factors) = (Problems::default(), Factors::NONE);
        let mut quantization = None;
        let config = match &value {
            Value::Object(object) => {
                let family = family(&value).map_err(|found| Error::Architecture {
                    path: path.to_owned(),
                    reason: refusal(&found),
                    found,
                })?;
                let f = Fields::new(object, &problems);
                if family == "granite" {
                    let keys = [
                        "embedding_multiplier",
                        "attention_multiplier",
                        "residual_multiplier",
                        "logits_scaling",
                    ];
                    factors = Factors::parse(&f, keys, Some(1.0));
                }
                quantization = schemes(&f, &problems);
                read(family, &f, &problems)
            }
            other => {
                problems.add("config", other, "an object");
                None
            }
        };
        let config = problems.into_result(config).map_err(|problems| bad(path, problems))?;
        Ok((config, factors, quantization))
    }

    /// Returns the configuration as a `config.json` for [`from_json`](Self::from_json) and Hugging
    /// Face's libraries.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            more => json!(more),
        };
        let (class, kind) = if self.rotary_dim != self.head_dim {
            ("Phi3ForCausalLM", "phi3")
        } else if !self.no_rope.is_empty() {
            ("SmolLM3ForCausalLM", "smollm3")
        } else if self.qk_norm {
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
        if self.rotary_dim != self.head_dim {
            json["partial_rotary_factor"] = (self.rotary_dim as f64 / self.head_dim as f64).into();
        }
        if !self.no_rope.is_empty() {
            let turned = |i| u8::from(!self.no_rope.contains(&i));
            json["no_rope_layers"] = (0..self.num_hidden_layers).map(turned).collect();
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
