//! A tokenizer's vocabulary as constraints use it.

use std::sync::Arc;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv,
};
use llguidance::{Logger, Matcher, ParserFactory};

use super::grammar::Grammar;
use super::mask::reason;
use super::schema;
use crate::error::Result;
use crate::tokenizer::WeakTokenizer;

/// Bounds of the work for one grammar. The states of a lexer take 1 to 2 KiB each.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Compiles grammars for one tokenizer.
pub(crate) struct Vocabulary(ParserFactory);

impl Vocabulary {
    /// Indexes a vocabulary: `words` are the bytes of the tokens by id, `special` those of them that
    /// are no text.
    pub(crate) fn new(
        tokenizer: WeakTokenizer,
        mut words: Vec<Vec<u8>>,
        special: &[u32],
    ) -> Result<Self, String> {
        for &id in special {
            if let Some(word) = words.get_mut(id as usize) {
                word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            }
        }
        // Rows allow their own ids at the end of a text.
        let info = TokRxInfo::new(words.len() as u32, INVALID_TOKEN);
        let trie = TokTrie::from(&info, &words);
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer });
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        Ok(Self(factory))
    }

    /// The number of tokens.
    pub(super) fn len(&self) -> usize {
        self.0.tok_env().tok_trie().vocab_size()
    }

    /// Returns a matcher at the beginning of a text.
    pub(super) fn compile(&self, grammar: &Grammar) -> Result<Matcher> {
        self.start(grammar.compiled()?).map_err(|reason| match grammar {
            Grammar::JsonSchema(schema) => {
                let fails = |part| {
                    let top = Grammar::JsonSchema(part).compiled().ok()?;
                    self.start(top).err().filter(|other| *other == reason)
                };
                let place = schema::find(schema, |part| fails(part).is_some());
                let place = if place.is_empty() { "its root".to_owned() } else { place };
                grammar.error(format!("{reason} (at {place})"))
            }
            _ => grammar.error(reason),
        })
    }

    fn start(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let parser = self.0.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            LIMITS,
        );
        Ok(Matcher::new(Ok(parser.map_err(|error| reason(&error))?)))
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vocabulary")
    }
}

/// The tokenizer as llguidance uses it to force tokens.
struct Environment {
    trie: TokTrie,
    /// Its owner: constraints keep it alive.
    tokenizer: WeakTokenizer,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// The tokens that the tokenizer itself would write for a part of a text, where they stand for
    /// exactly these bytes.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let exact = |text: &str| {
            let ids = self.tokenizer.encode_part(text)?;
            (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
        };
        let tokens =
            |text: &str| exact(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(bytes, tokens)
    }
}
