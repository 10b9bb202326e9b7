//! Constraints on generated text: JSON of a schema, regular expressions, grammars, choices.
//!
//! A [`Grammar`] is compiled for a tokenizer into a [`Constraint`], which any number of generations
//! can share. At each step a mask bans the tokens that cannot continue the text. It is computed on
//! another thread while the model reads the token before. The token that ends a text is allowed only
//! where the text is complete, and a text that nothing can follow ends by itself
//! ([`Reason::Complete`](crate::Reason::Complete)).
//!
//! ```
//! use mlx_llamba::constraint::{Constraint, Grammar};
//! use mlx_llamba::{Generation, Llamba};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let llamba = Llamba::embedded().load()?;
//! let tokenizer = llamba.tokenizer().ok_or("a model with a tokenizer")?;
//! let grammar = Grammar::Choice(vec!["a cat".into(), "a dog".into()]);
//! let options = Generation::greedy().constraint(Constraint::new(tokenizer, &grammar)?);
//! let pet = llamba.generate("Lily wanted a pet. She got ", &options)?;
//! assert!(["a cat", "a dog"].contains(&pet.text.as_str()));
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//!
//! A grammar has at most [`Grammar::LONGEST`] bytes and [`Grammar::DEEPEST`] levels of brackets. The
//! work of compiling it and of each mask is bounded; a grammar that needs more is an error, and a
//! text that does ends ([`Reason::Constraint`](crate::Reason::Constraint)).
//!
//! Stop strings end a text wherever they stand, also where it is incomplete.

mod compile;
#[cfg(test)]
mod conformance;
mod grammar;
mod guide;
mod mask;
pub(crate) mod schema;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use llguidance::Matcher;

pub use grammar::Grammar;
pub(crate) use guide::{Guide, Progress};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// A grammar compiled for a tokenizer. A clone shares everything.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    tokenizer: Tokenizer,
    grammar: Grammar,
    /// At the beginning of the text.
    matcher: Mutex<Matcher>,
}

impl Constraint {
    /// Compiles `grammar` for texts of `tokenizer`. The first call for a tokenizer also indexes its
    /// vocabulary, which takes some tenths of a second for a large one.
    ///
    /// # Errors
    /// [`Error::Constraint`] if the grammar is malformed, unsupported or too large;
    /// [`Error::Tokenizer`] if the vocabulary cannot be indexed.
    pub fn new(tokenizer: &Tokenizer, grammar: &Grammar) -> Result<Self> {
        let vocabulary = tokenizer.vocabulary()?;
        let matcher = compile::compile(vocabulary, grammar)?;
        let constraint = Self(Arc::new(Compiled {
            tokenizer: tokenizer.clone(),
            grammar: grammar.clone(),
            matcher: Mutex::new(matcher),
        }));
        // Some grammars show only here that they are too large, or that they have no text.
        let first = Guide::new(&constraint, &[], vocabulary.len()).wait();
        first.map_err(|reason| grammar.error(reason))?;
        Ok(constraint)
    }

    /// The grammar.
    #[must_use]
    pub fn grammar(&self) -> &Grammar {
        &self.0.grammar
    }

    /// Checks that texts of `tokenizer` can be constrained.
    pub(crate) fn check(&self, tokenizer: Option<&Tokenizer>) -> Result<()> {
        match tokenizer {
            Some(tokenizer) if tokenizer.fingerprint() == self.0.tokenizer.fingerprint() => Ok(()),
            found => Err(Error::Constraint {
                kind: self.0.grammar.kind(),
                reason: format!(
                    "it was compiled for the tokenizer {}, but the model has {}",
                    self.0.tokenizer.path().display(),
                    found.map_or("none".into(), |found| found.path().display().to_string())
                ),
            }),
        }
    }

    /// A matcher of its own at the beginning of a text.
    fn matcher(&self) -> Matcher {
        // A panic while it is copied leaves it as it was.
        self.0.matcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).deep_clone()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Constraint").field(&self.0.grammar).finish()
    }
}
