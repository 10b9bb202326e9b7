//! Granite's factors of embeddings, scores, residuals and logits.
//!
//! A model whose weights are multiplied by them computes the same without them: a Llama, which students and
//! other tools know. Source: the Granite models of transformers.

use mlx_llamba::files::Fields;
use mlx_llamba::kernels::{Quantized, Weight};
use mlx_rs::{Array, Dtype};

use crate::config::LlamaConfig;
use crate::llama::dense;

/// The factors of a model; 1 for other families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Factors {
    /// Of the embeddings.
    embedding: f64,
    /// Of the scores of queries and keys, in place of `k^(-1/2)`.
    attention: Option<f64>,
    /// Of what attention and MLP add.
    residual: f64,
    /// The divisor of the logits.
    logits: f64,
}

impl Factors {
    /// No factors.
    pub(crate) const NONE: Self =
        Self { embedding: 1.0, attention: None, residual: 1.0, logits: 1.0 };

    /// Parses the factors under these names: of embeddings, scores and residuals, and the divisor of logits.
    /// `attention` is that of scores if it is absent; `None` is the usual one.
    pub(crate) fn parse<K: AsRef<str>>(
        f: &Fields<'_>,
        [embedding, score, residual, logits]: [K; 4],
        attention: Option<f64>,
    ) -> Self {
        let factor = |key: &str| {
            f.number(key, Some(1.0), "a number above 0", |x| x > 0.0 && x < 1e6).unwrap_or(1.0)
        };
        Self {
            embedding: factor(embedding.as_ref()),
            attention: match f.get(score.as_ref()) {
                Some(_) => Some(factor(score.as_ref())),
                None => attention,
            },
            residual: factor(residual.as_ref()),
            logits: factor(logits.as_ref()),
        }
    }

    /// Multiplies a tensor, given by its canonical name, by its share. Lazy.
    pub(crate) fn apply(
        &self,
        config: &LlamaConfig,
        name: &str,
        weight: Weight,
    ) -> mlx_llamba::Result<Weight> {
        let factor = self.of(config, name);
        if factor == 1.0 {
            return Ok(weight);
        }
        let times = |array: &Array| {
            array.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(factor as f32))
        };
        Ok(match weight {
            Weight::Quantized(Quantized { weight, scales, biases: Some(biases), scheme }) => {
                let (scales, biases) = (times(&scales)?, Some(times(&biases)?));
                Weight::Quantized(Quantized { weight, scales, biases, scheme })
            }
            // Scales that are codes themselves cannot be multiplied.
            weight => Weight::Dense(times(&dense(name, &weight)?)?),
        })
    }

    fn of(&self, config: &LlamaConfig, name: &str) -> f64 {
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        match stem.rsplit('.').next().unwrap_or_default() {
            "embed_tokens" => self.embedding,
            "q_proj" => self.attention.map_or(1.0, |scale| scale * (config.head_dim as f64).sqrt()),
            "o_proj" | "down_proj" => self.residual,
            "lm_head" => 1.0 / self.logits,
            // The head is the embedding, with its factor.
            "norm" if config.tie_word_embeddings => 1.0 / (self.logits * self.embedding),
            _ => 1.0,
        }
    }
}
