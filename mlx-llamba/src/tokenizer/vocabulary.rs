//! The vocabulary as llguidance uses it for constraints, and the tokens of parts of a text.

use std::sync::{Arc, Weak};

use llguidance::ParserFactory;
use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use super::files::{self, Spelling};
use super::{Loaded, Tokenizer};
use crate::error::Result;

/// A character that no text has, before a part of a text: the part does not begin the text.
const BEFORE: &str = "\u{1}";

/// Makes parsers of grammars for one tokenizer.
pub(crate) struct Vocabulary(pub(crate) ParserFactory);

/// The tokenizer as llguidance uses it to force tokens.
struct Environment {
    trie: TokTrie,
    /// The owner of this value; constraints keep it alive.
    tokenizer: Weak<Loaded>,
}

impl Tokenizer {
    /// Returns the index of the vocabulary, made by the first call.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary> {
        let made = self.0.vocabulary.get_or_init(|| {
            let added = self.0.inner.get_added_vocabulary();
            let largest = added.get_added_tokens_decoder().keys().copied().max();
            let largest = largest.unwrap_or(0).max(self.0.largest_id);
            let words: Vec<_> = (0..=largest).map(|id| self.word(id)).collect();
            files::guarded(|| Ok(Vocabulary::new(Arc::downgrade(&self.0), &words)))?
        });
        made.as_ref().map_err(|reason| self.failed(reason.clone()))
    }

    /// Returns the bytes of a token, with a marker in front if it is no text.
    fn word(&self, id: u32) -> Vec<u8> {
        let mut word = self.bytes(id);
        if self.is_control(id) {
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
        word
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

impl Vocabulary {
    /// Indexes the words of a tokenizer, by id.
    fn new(tokenizer: Weak<Loaded>, words: &[Vec<u8>]) -> Result<Self, String> {
        // Rows allow their own ids at the end of a text.
        let info = TokRxInfo::new(words.len() as u32, INVALID_TOKEN);
        let trie = TokTrie::from(&info, words);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer });
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Self(factory))
    }

    /// Returns the number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.0.tok_env().tok_trie().vocab_size()
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vocabulary")
    }
}

impl Environment {
    /// Returns the token ids of a part of a text. They may stand for other bytes, if the tokenizer
    /// normalizes texts or the part spells a special token.
    fn encode_part(&self, text: &str) -> Option<Vec<u32>> {
        let loaded = self.tokenizer.upgrade()?;
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

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// Returns the tokens that the tokenizer itself would write for a part of a text, where they
    /// stand for exactly these bytes.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let exact = |text: &str| {
            let ids = self.encode_part(text)?;
            (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
        };
        let tokens =
            |text: &str| exact(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(bytes, tokens)
    }
}
