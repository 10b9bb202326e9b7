//! The vocabulary for constraints, and the tokens of parts of a text.

use std::sync::{Arc, Weak};

use super::files::{self, Spelling};
use super::{Loaded, Tokenizer};
use crate::constraint::Vocabulary;
use crate::error::Result;

/// A character that no text has, before a part of a text: the part does not begin the text.
const BEFORE: &str = "\u{1}";

/// A tokenizer that may be gone.
pub(crate) struct WeakTokenizer(Weak<Loaded>);

impl Tokenizer {
    /// The index of its vocabulary.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary> {
        let made = self.0.vocabulary.get_or_init(|| {
            let added = self.0.inner.get_added_vocabulary();
            let largest = added.get_added_tokens_decoder().keys().copied().max();
            let largest = largest.unwrap_or(0).max(self.0.largest_id);
            let words = (0..=largest).map(|id| self.bytes(id)).collect();
            let special: Vec<u32> = (0..=largest).filter(|&id| self.is_control(id)).collect();
            let tokenizer = WeakTokenizer(Arc::downgrade(&self.0));
            files::guarded(|| Ok(Vocabulary::new(tokenizer, words, &special)))?
        });
        made.as_ref().map_err(|reason| self.failed(reason.clone()))
    }

    /// Returns true for tokens that are no text.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        let special = &self.0.special;
        special.eos.contains(&id) || special.bos == Some(id) || {
            let token = self.0.inner.id_to_token(id);
            token.is_some_and(|t| self.0.inner.get_added_vocabulary().is_special_token(&t))
        }
    }
}

impl WeakTokenizer {
    /// Token ids of a part of a text. They may stand for other bytes, if the tokenizer normalizes
    /// texts or the part spells a special token.
    pub(crate) fn encode_part(&self, text: &str) -> Option<Vec<u32>> {
        let loaded = self.0.upgrade()?;
        let ids = |text: &str| {
            let encoding = files::guarded(|| loaded.inner.encode_fast(text, false)).ok()?;
            Some(encoding.get_ids().to_vec())
        };
        if loaded.spelling == Spelling::ByteLevel {
            return ids(text);
        }
        let before = ids(BEFORE)?;
        let whole = ids(&format!("{BEFORE}{text}"))?;
        whole.strip_prefix(&before[..]).map(<[u32]>::to_vec)
    }
}
