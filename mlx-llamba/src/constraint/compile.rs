//! Compiles a grammar for the vocabulary of a tokenizer.

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Logger, Matcher};

use super::grammar::Grammar;
use super::mask::reason;
use super::schema;
use crate::error::Result;
use crate::tokenizer::Vocabulary;

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

/// Returns a matcher at the beginning of a text.
pub(super) fn compile(vocabulary: &Vocabulary, grammar: &Grammar) -> Result<Matcher> {
    start(vocabulary, grammar.compiled()?).map_err(|reason| match grammar {
        Grammar::JsonSchema(schema) => {
            let fails = |part| {
                let top = Grammar::JsonSchema(part).compiled().ok()?;
                start(vocabulary, top).err().filter(|other| *other == reason)
            };
            let place = schema::find(schema, |part| fails(part).is_some());
            let place = if place.is_empty() { "its root".to_owned() } else { place };
            grammar.error(format!("{reason} (at {place})"))
        }
        _ => grammar.error(reason),
    })
}

fn start(vocabulary: &Vocabulary, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let parser = vocabulary.0.create_parser_from_init_ext(
        GrammarInit::Serialized(grammar),
        Logger::new(0, 0),
        InferenceCapabilities::default(),
        LIMITS,
    );
    Ok(Matcher::new(Ok(parser.map_err(|error| reason(&error))?)))
}
