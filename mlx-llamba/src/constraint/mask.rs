//! Masks of the vocabulary.

use llguidance::Matcher;
use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::select;

use crate::error::Result;

/// The tokens that can continue a text.
pub(crate) struct Mask(Vec<bool>);

impl Mask {
    /// Computes the tokens, of `vocab`, that can follow where `matcher` is. The ids `eos` can where
    /// the text is complete. The error says why there are none.
    pub(super) fn compute(
        matcher: &mut Matcher,
        eos: &[u32],
        vocab: usize,
    ) -> Result<Self, String> {
        let set = matcher.compute_mask().map_err(|e| reason(&e))?;
        let complete = matcher.is_accepting().map_err(|e| reason(&e))?;
        let mut allowed = vec![false; vocab];
        set.iter_set_entries(|id| {
            if let Some(entry) = allowed.get_mut(id) {
                *entry = true;
            }
        });
        for &id in eos {
            if let Some(entry) = allowed.get_mut(id as usize) {
                *entry = complete;
            }
        }
        if !allowed.contains(&true) {
            return Err("no token of the model's vocabulary can continue the text".to_owned());
        }
        Ok(Self(allowed))
    }

    /// Bans the other tokens: logits (1, at least vocab) become (1, vocab). Lazy.
    pub(crate) fn apply(&self, logits: &Array) -> Result<Array> {
        let vocab = self.0.len() as i32;
        let allowed = Array::from_slice(&self.0, &[1, vocab]);
        let real = logits.try_index((.., ..vocab))?;
        Ok(select(allowed, real, Array::from_f32(f32::NEG_INFINITY))?)
    }
}

/// The message of an error of llguidance as one line. After it, llguidance shows its own state.
pub(super) fn reason(error: &impl std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let end = text.find("\n<").unwrap_or(text.len());
    let drawn = |line: &&str| line.chars().all(|c| c == '^') || line.contains(" | ");
    let lines: Vec<&str> = text[..end].lines().map(str::trim).filter(|line| !drawn(line)).collect();
    match lines.join(" ").as_str() {
        "NoExtensionBias" => "no token of the tokenizer can continue the text".to_owned(),
        text => text.replace(char::is_control, " ").chars().take(1000).collect(),
    }
}
