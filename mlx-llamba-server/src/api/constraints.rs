//! Compiled constraints, kept for the next request with the same grammar.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use mlx_llamba::Tokenizer;
use mlx_llamba::constraint::{Constraint, Grammar};
use tokio::sync::Semaphore;

use crate::http::budget::Charge;
use crate::problem::Problem;

/// Constraints that are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();
/// Constraints that are compiled at once: each may take a second.
const AT_ONCE: usize = 2;

/// Bytes of memory for each byte of a grammar's debug text.
const PER_BYTE: usize = 192;

/// Compiles constraints, beside the threads that answer.
pub(crate) struct Constraints {
    /// By their owner, who would otherwise notice from the time which grammars others use, and by the
    /// debug text of the grammar.
    kept: Mutex<LruCache<(String, String), Constraint>>,
    turns: Semaphore,
}

impl Constraints {
    pub(crate) fn new() -> Self {
        Self { kept: Mutex::new(LruCache::new(KEPT)), turns: Semaphore::new(AT_ONCE) }
    }

    /// Compiles a grammar that the parameter `name` asks for, or takes the one that `owner` had made.
    ///
    /// # Errors
    /// 400 if it cannot be used; 413 and 503 if there is no memory for it.
    pub(crate) async fn compile(
        &self,
        tokenizer: &Tokenizer,
        grammar: Grammar,
        name: &'static str,
        owner: &str,
        memory: &Charge,
    ) -> Result<Constraint, Problem> {
        let text = format!("{grammar:?}");
        let length = text.len();
        let key = (owner.to_owned(), text);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(constraint) = kept().get(&key) {
            return Ok(constraint.clone());
        }
        memory.add(PER_BYTE * length)?;
        let _turn = self.turns.acquire().await;
        let tokenizer = tokenizer.clone();
        let compile = move || Constraint::new(&tokenizer, &grammar);
        let made = tokio::task::spawn_blocking(compile).await;
        let made = made.map_err(|error| Problem::failure(&error))?;
        let constraint = made.map_err(|error| match error {
            mlx_llamba::Error::Constraint { .. } => Problem::parameter(name, error),
            error => Problem::failure(&error),
        })?;
        kept().put(key, constraint.clone());
        Ok(constraint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use mlx_llamba::Tokenizer;
    use mlx_llamba::constraint::Grammar;

    use super::Constraints;
    use crate::http::budget::Budget;

    #[test]
    fn nobody_gets_what_another_had_compiled() {
        let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba/assets/llamba-stories");
        let tokenizer = Tokenizer::open(Path::new(assets)).unwrap();
        let charge = Budget::new(1 << 30, Default::default()).charge("a");
        let constraints = Constraints::new();
        let compile = |owner| {
            let grammar = Grammar::Choice(vec!["a".to_owned(), "b".to_owned()]);
            let made = constraints.compile(&tokenizer, grammar, "guided_choice", owner, &charge);
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            runtime.block_on(made).unwrap();
            constraints.kept.lock().unwrap().len()
        };
        assert_eq!(["one", "one", "two", "one"].map(compile), [1, 1, 2, 2]);
    }
}
