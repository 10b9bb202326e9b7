//! The options that constrain a text.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mlx_llamba::constraint::{Constraint, Grammar};
use mlx_llamba::{Generation, Tokenizer};

use crate::output::usage;

#[derive(clap::Args)]
#[command(next_help_heading = "Constraints")]
#[group(multiple = false)]
pub(crate) struct ConstraintArgs {
    /// Write JSON that this file's JSON schema describes
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Write a text of this file's grammar, in llguidance's variant of Lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// Write a text that matches this regular expression as a whole
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
}

impl ConstraintArgs {
    /// Reads the files.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>> {
        if let Some(path) = &self.json_schema {
            let schema = serde_json::from_str(&read(path)?);
            let schema = schema.with_context(|| format!("{} is not JSON", path.display()))?;
            return Ok(Some(Grammar::JsonSchema(schema)));
        }
        if let Some(path) = &self.grammar {
            return Ok(Some(Grammar::Lark(read(path)?)));
        }
        Ok(self.regex.clone().map(Grammar::Regex))
    }
}

fn read(path: &Path) -> Result<String> {
    mlx_llamba::files::read_text(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Constrains texts to a grammar, if there is one.
pub(crate) fn constrain(
    options: &mut Generation,
    grammar: Option<&Grammar>,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let made = grammar.map(|grammar| Constraint::new(tokenizer, grammar)).transpose();
    options.constraint = match (made, grammar) {
        // The others come from files.
        (Err(error), Some(Grammar::Regex(_))) => usage!("{error}"),
        (made, _) => made?,
    };
    Ok(())
}
