//! Rotary positions.
//!
//! Source: RoFormer (arXiv 2104.09864); pairs are (i, i + k/2) as in the checkpoints on Hugging
//! Face. Linear scaling: arXiv 2306.15595. The `llama3` scaling is that of Llama 3.1's published
//! configuration, the `dynamic` one (dynamic NTK) that of Hugging Face's transformers.

use mlx_llamba::files::{Fields, Problems};
use mlx_rs::Array;
use serde_json::{Map, Value, json};

use crate::limits::CONTEXT;
use crate::longrope::LongRope;
use crate::yarn::Yarn;

/// The rule by which a pair's wavelength follows from the base.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Rope {
    /// `base^(2i/k)`.
    #[default]
    Default,
    /// All wavelengths multiplied by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths multiplied by a factor, short ones unchanged, with a transition between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context of the training before the extension, in tokens.
        original_context: usize,
    },
    /// Wavelengths stretched depending on their number of rotations.
    Yarn(Yarn),
    /// Each wavelength multiplied by a factor of its own. Texts longer than the first training's have
    /// other factors, so a cache, whose keys are already rotated, cannot grow past it.
    LongRope(LongRope),
    /// Unchanged within the context. In a longer text all wavelengths depend on its length, so a
    /// cache, whose keys are already rotated, cannot grow past the context.
    Dynamic {
        /// The factor.
        factor: f64,
        /// `max_position_embeddings`.
        context: usize,
    },
}

impl Rope {
    /// Returns the wavelengths over 2 pi of the `k / 2` pairs in a text of `length` tokens: an
    /// angle is the position over this.
    pub(crate) fn wavelengths(&self, k: usize, base: f64, length: usize) -> Vec<f64> {
        let base = match self {
            &Self::Dynamic { factor, context } if length > context => {
                let longer = factor * length as f64 / context as f64 - (factor - 1.0);
                base * longer.powf(k as f64 / (k as f64 - 2.0))
            }
            _ => base,
        };
        let plain = (0..k / 2).map(|i| base.powf(2.0 * i as f64 / k as f64));
        match self {
            Self::Yarn(yarn) => {
                plain.enumerate().map(|(i, w)| yarn.stretch(i, w, k, base)).collect()
            }
            Self::LongRope(long) => {
                plain.zip(long.factors(length)).map(|(w, factor)| w * factor).collect()
            }
            _ => plain.map(|w| self.stretch(w)).collect(),
        }
    }

    /// The factor of rotated queries and keys.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope(long) => long.attention_factor,
            _ => 1.0,
        }
    }

    /// The number of tokens up to which a growing text keeps its rotated keys; `None`: no limit.
    pub(crate) fn longest_cache(&self) -> Option<usize> {
        match self {
            Self::Dynamic { context, .. } => Some(*context),
            Self::LongRope(long) => Some(long.original_context),
            _ => None,
        }
    }

    fn stretch(&self, w: f64) -> f64 {
        match *self {
            Self::Default | Self::Dynamic { .. } | Self::Yarn(_) | Self::LongRope(_) => w,
            Self::Linear { factor } => factor * w,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context as f64 / (2.0 * std::f64::consts::PI * w);
                if turns > high_freq_factor {
                    w
                } else if turns < low_freq_factor {
                    factor * w
                } else {
                    let short = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    1.0 / ((1.0 - short) / (factor * w) + short / w)
                }
            }
        }
    }

    /// Returns [`wavelengths`](Self::wavelengths) as an array (k / 2,), float32.
    pub(crate) fn array(&self, k: usize, base: f64, length: usize) -> Array {
        let all = self.wavelengths(k, base, length);
        let values: Vec<f32> = all.iter().map(|&w| w as f32).collect();
        Array::from_slice(&values, &[values.len() as i32])
    }

    /// Parses the `rope_scaling` block of a `config.json` with these `max_position_embeddings`; `first` are
    /// those of the first training, if they stand outside of the block, and `pairs` turn in each head.
    pub(crate) fn parse(
        block: &Map<String, Value>,
        context: usize,
        first: Option<usize>,
        pairs: usize,
        problems: &Problems,
    ) -> Option<Self> {
        let f = Fields::new(block, problems);
        let kind = f.get("rope_type").or_else(|| f.get("type"));
        let factor = || f.number("factor", None, "a number from 1 on", |x| x >= 1.0);
        match kind.map(|kind| kind.as_str().unwrap_or("?")) {
            None if f.get("factor").is_some() => {
                f.add("rope_scaling.rope_type", "missing", "the kind of scaling that has a factor");
                None
            }
            None | Some("default") => Some(Self::Default),
            Some("linear") => Some(Self::Linear { factor: factor()? }),
            Some("llama3") => {
                let part = |key| f.number(key, None, "a number above 0", |x| x > 0.0);
                let (factor, low, high) =
                    (factor(), part("low_freq_factor"), part("high_freq_factor"));
                let original_context = f.size("original_max_position_embeddings", None, CONTEXT);
                if low? >= high? {
                    f.add("high_freq_factor", high?, format!("more than {}", low?));
                }
                Some(Self::Llama3 {
                    factor: factor?,
                    low_freq_factor: low?,
                    high_freq_factor: high?,
                    original_context: original_context?,
                })
            }
            Some("yarn") => Some(Self::Yarn(Yarn::parse(&f, factor()?, context)?)),
            Some("dynamic") => Some(Self::Dynamic { factor: factor()?, context }),
            // Older files of Phi-3 say "su".
            Some("longrope" | "su") => {
                Some(Self::LongRope(LongRope::parse(&f, context, first, pairs)?))
            }
            Some(other) => {
                let known =
                    "\"default\", \"linear\", \"llama3\", \"yarn\", \"longrope\" or \"dynamic\"";
                f.add("rope_scaling.rope_type", other, known);
                None
            }
        }
    }

    /// Returns the `rope_scaling` block, null without scaling.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
            Self::Yarn(yarn) => yarn.to_json(),
            Self::LongRope(long) => long.to_json(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            }),
        }
    }
}
