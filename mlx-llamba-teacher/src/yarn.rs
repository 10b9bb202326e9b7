//! Rotary positions stretched depending on a pair's rotations within the training's context.
//!
//! Source: YaRN (arXiv 2309.00071), sections 3.2 and 3.4; fields and defaults as in the
//! configurations on Hugging Face.

use std::f64::consts::PI;

use mlx_llamba::files::Fields;
use serde_json::{Value, json};

use crate::limits::CONTEXT;

/// YaRN's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// The factor of long wavelengths.
    pub factor: f64,
    /// Context of the training before the extension, in tokens.
    pub original_context: usize,
    /// Pairs with more rotations in that context are unchanged.
    pub beta_fast: f64,
    /// Pairs with fewer rotations are stretched by the whole factor.
    pub beta_slow: f64,
    /// The transition between them begins and ends at whole pairs.
    pub truncate: bool,
    /// The factor of queries, and of keys.
    pub attention_factor: f64,
}

impl Yarn {
    /// The wavelength of pair `i` of `k / 2`, which is `w` without scaling.
    pub(crate) fn stretch(self, i: usize, w: f64, k: usize, base: f64) -> f64 {
        let context = self.original_context as f64;
        // The fractional index of the pair with this number of rotations.
        let pair = |turns: f64| k as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(k as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let long = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / (long / (self.factor * w) + (1.0 - long) / w)
    }

    /// Parses the rest of the block; `context` is the model's present context.
    pub(crate) fn parse(f: &Fields<'_>, factor: f64, context: usize) -> Option<Self> {
        let optional = |key| match f.get(key) {
            Some(_) => f.number(key, None, "a number above 0", |x| x > 0.0).map(Some),
            None => Some(None),
        };
        let (fast, slow) = (optional("beta_fast")?, optional("beta_slow")?);
        let (beta_fast, beta_slow) = (fast.unwrap_or(32.0), slow.unwrap_or(1.0));
        if beta_fast < beta_slow {
            f.add("beta_fast", beta_fast, format!("at least beta_slow, {beta_slow}"));
        }
        let given = optional("attention_factor")?;
        let (scale, scale_all) = (optional("mscale")?, optional("mscale_all_dim")?);
        let grown = |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
        let derived = match scale.zip(scale_all) {
            Some((one, all)) => grown(one) / grown(all),
            None => grown(1.0),
        };
        Some(Self {
            factor,
            original_context: f.size("original_max_position_embeddings", Some(context), CONTEXT)?,
            beta_fast,
            beta_slow,
            truncate: f.flag("truncate", Some(true))?,
            attention_factor: given.unwrap_or(derived),
        })
    }

    pub(crate) fn to_json(self) -> Value {
        json!({
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": self.original_context,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "truncate": self.truncate,
            "attention_factor": self.attention_factor,
        })
    }
}
