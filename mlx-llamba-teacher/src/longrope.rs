//! Rotary positions with a factor for each wavelength.
//!
//! Source: LongRoPE (arXiv 2402.13753); fields and defaults as in the configurations on Hugging Face.

use mlx_llamba::files::Fields;
use serde_json::{Value, json};

use crate::limits::CONTEXT;

/// LongRoPE's scaling.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// The factors in texts of the first training's length, one for each pair.
    pub short: Vec<f64>,
    /// The factors in longer texts.
    pub long: Vec<f64>,
    /// Context of the training before the extension, in tokens.
    pub original_context: usize,
    /// The factor of rotated queries, and of rotated keys.
    pub attention_factor: f64,
}

impl LongRope {
    /// The factors in a text of `length` tokens.
    pub(crate) fn factors(&self, length: usize) -> &[f64] {
        if length > self.original_context { &self.long } else { &self.short }
    }

    /// Parses the rest of the block; see [`Rope::parse`](crate::Rope::parse).
    pub(crate) fn parse(
        f: &Fields<'_>,
        context: usize,
        first: Option<usize>,
        pairs: usize,
    ) -> Option<Self> {
        let factors = |key: &str| {
            let list = f.get(key).and_then(Value::as_array);
            let numbers: Option<Vec<f64>> =
                list.and_then(|list| list.iter().map(Value::as_f64).collect());
            let legal = |x: &f64| x.is_finite() && *x > 0.0;
            let found = numbers.filter(|all| all.len() == pairs && all.iter().all(legal));
            if found.is_none() {
                let found = list.map_or("missing".into(), |list| format!("{} values", list.len()));
                f.add(key, found, format!("a list of {pairs} numbers above 0"));
            }
            found
        };
        let optional = |key| match f.get(key) {
            Some(_) => f.number(key, None, "a number above 0", |x| x > 0.0).map(Some),
            None => Some(None),
        };
        let (short, long) = (factors("short_factor"), factors("long_factor"));
        let first = first.or(Some(context));
        let original_context = f.size("original_max_position_embeddings", first, CONTEXT)?;
        let (factor, given) = (optional("factor")?, optional("attention_factor")?);
        let factor = factor.unwrap_or(context as f64 / original_context as f64);
        let derived = match factor > 1.0 && original_context > 1 {
            true => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
            false => 1.0,
        };
        Some(Self {
            short: short?,
            long: long?,
            original_context,
            attention_factor: given.unwrap_or(derived),
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "rope_type": "longrope",
            "short_factor": self.short,
            "long_factor": self.long,
            "original_max_position_embeddings": self.original_context,
            "attention_factor": self.attention_factor,
        })
    }
}
