//! The student's configuration, derived from the teacher's.

use std::path::Path;

use derive_setters::Setters;
use mlx_llamba::Config;
use serde_json::json;

use crate::{Error, Result};
use mlx_llamba_teacher::LlamaConfig;

/// The student's sizes that its teacher does not determine.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
#[setters(strip_option)]
pub struct Shape {
    /// State dimension, `n`. By default the teacher's `head_dim`.
    pub d_state: Option<usize>,
    /// Width of the convolution, `k`.
    pub d_conv: usize,
    /// Give the mixers' projections biases, in place of `z_bias`. A student of a teacher whose
    /// attention has biases always has them; the published models have none.
    pub bias: bool,
    /// Embedding and head are padded to a multiple of this number of rows.
    pub pad_vocab_size_multiple: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { d_state: None, d_conv: 4, bias: false, pad_vocab_size_multiple: 8 }
    }
}

/// Returns the configuration of a Llamba of the teacher's sizes: a value head and a query/key head
/// for every query head of the teacher (`h = g`), `p = head_dim`, no activation after the
/// convolution.
///
/// # Errors
/// [`Error::NoStudent`] if `num_attention_heads * head_dim` is not a multiple of `hidden_size`.
/// [`mlx_llamba::Error::Config`] for a [`Shape`] that no Llamba can have.
pub fn config(teacher: &LlamaConfig, shape: &Shape) -> Result<Config> {
    let (d, h, p) = (teacher.hidden_size, teacher.num_attention_heads, teacher.head_dim);
    let d_inner = h * p;
    if d == 0 || !d_inner.is_multiple_of(d) || d_inner == 0 {
        return Err(Error::NoStudent {
            field: "num_attention_heads * head_dim",
            found: d_inner.to_string(),
            expected: format!("a multiple of hidden_size = {d}: mixers are so many times as wide"),
        });
    }
    // As the text of a config.json, whose parser checks everything else.
    let json = json!({
        "model_type": "llamba",
        "vocab_size": teacher.vocab_size,
        "tie_embeddings": teacher.tie_word_embeddings,
        "pad_vocab_size_multiple": shape.pad_vocab_size_multiple,
        "lm_head_bias": false,
        "d_model": d,
        "n_layer": teacher.num_hidden_layers,
        "norm_epsilon": teacher.rms_norm_eps,
        "mlp_cfg": {
            "intermediate_size": teacher.intermediate_size,
            "bias": teacher.mlp_bias,
            "act_fn": "silu",
        },
        "ssm_cfg": {
            "d_state": shape.d_state.unwrap_or(p),
            "n_v_heads": h,
            "n_qk_heads": h,
            "expand": d_inner / d,
            "d_conv": shape.d_conv,
            "activation": "identity",
            "bias": shape.bias || teacher.qkv_bias,
        },
        "eos_token_id": teacher.eos,
    });
    Ok(Config::from_json(Path::new("the student's configuration"), &json.to_string())?)
}
