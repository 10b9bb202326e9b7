//! Converts texts to token ids, with the tokens that begin and end a document.

use mlx_llamba::Tokenizer;

use super::Text;
use crate::{Error, Result};

/// A tokenizer, and the tokens around a document.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    hash: String,
    vocab: usize,
    begin: Option<u32>,
    end: Option<u32>,
}

impl Encoder {
    /// Makes an encoder for a vocabulary of `vocab` entries. A document begins as the tokenizer
    /// begins a text, or with the token `begin`; it ends with the token `end`, or the first that
    /// ends a text for the tokenizer, if there is one. `hash` identifies the tokenizer.
    ///
    /// # Errors
    /// [`Error::UnknownToken`]; an error for a tokenizer with ids outside of the vocabulary.
    pub fn new(
        tokenizer: &Tokenizer,
        hash: String,
        vocab: usize,
        begin: Option<&str>,
        end: Option<&str>,
    ) -> Result<Self> {
        tokenizer.check_vocabulary(vocab)?;
        let id = |token: &str| {
            tokenizer.token_id(token).ok_or_else(|| Error::UnknownToken { token: token.to_owned() })
        };
        Ok(Self {
            begin: begin.map(id).transpose()?,
            end: end.map(id).transpose()?.or(tokenizer.eos_ids().first().copied()),
            tokenizer: tokenizer.clone(),
            hash,
            vocab,
        })
    }

    /// The number of entries of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Identifies the tokenizer and its options.
    pub(crate) fn name(&self) -> serde_json::Value {
        serde_json::json!({ "tokenizer": self.hash, "begin": self.begin, "end": self.end })
    }

    /// Returns the ids of a document; an empty text has none.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = self.tokenizer.encode(text, true)?;
        if let Some(begin) = self.begin.filter(|begin| ids.first() != Some(begin)) {
            ids.insert(0, begin);
        }
        ids.extend(self.end.filter(|end| ids.last() != Some(end)));
        Ok(ids)
    }

    /// Returns the ids of each text, computed on all cores.
    pub(crate) fn encode_all(&self, texts: &[Text]) -> Result<Vec<Vec<u32>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = texts.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let work = |texts: &[Text]| -> Result<Vec<Vec<u32>>> {
                texts.iter().map(|text| self.encode(&text.text)).collect()
            };
            let parts: Vec<_> =
                texts.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
            let mut all = Vec::with_capacity(texts.len());
            for part in parts {
                match part.join() {
                    Ok(ids) => all.extend(ids?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }
}
