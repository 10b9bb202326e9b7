//! Descriptions of the texts that are allowed.

use std::collections::BTreeSet;

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::schema;
use crate::error::{Error, Result};

/// A set of texts.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON values that a [JSON Schema](https://json-schema.org) describes, with the separators
    /// `", "` and `": "`. The schema's `x-guidance` can change them, for example to
    /// `{"whitespace_flexible": true}`. An object whose properties are listed has no others, unless
    /// `additionalProperties` says so.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Texts that match a regular expression as a whole, in the syntax of the crate `regex`.
    Regex(String),
    /// Texts of a context-free grammar, in llguidance's
    /// [variant of Lark](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

impl Grammar {
    /// The most bytes of a grammar's text.
    pub const LONGEST: usize = 1 << 20;
    /// The deepest nesting of brackets in a grammar's text.
    pub const DEEPEST: usize = 120;

    /// The kind as a noun, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::JsonObject => "JSON object",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
            Self::Choice(_) => "choice",
        }
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Constraint { kind: self.kind(), reason: reason.into() }
    }

    /// The grammar as llguidance takes it.
    pub(super) fn compiled(&self) -> Result<TopLevelGrammar> {
        Ok(match self {
            Self::JsonSchema(schema) => {
                self.check(&schema.to_string())?;
                TopLevelGrammar::from_json_schema(self.separated(schema)?)
            }
            Self::JsonObject => {
                TopLevelGrammar::from_json_schema(self.separated(&json!({"type": "object"}))?)
            }
            Self::Regex(regex) => {
                self.check(regex)?;
                TopLevelGrammar::from_regex(regex)
            }
            Self::Lark(lark) => {
                self.check(lark)?;
                TopLevelGrammar::from_lark(lark.clone())
            }
            Self::Choice(texts) => {
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    return Err(self.error("expected a list of texts, none of them empty"));
                }
                // Lark writes strings as JSON does. One terminal has all of them: as rules, thousands
                // would take seconds.
                let literals: BTreeSet<String> =
                    texts.iter().map(|text| json!(text).to_string()).collect();
                let literals: Vec<String> = literals.into_iter().collect();
                let lark = format!("start: CHOICE\nCHOICE: {}", literals.join(" | "));
                self.check_length(&lark)?;
                TopLevelGrammar::from_lark(lark)
            }
        })
    }

    /// Refuses what is too large, or nested so deeply that a parser could run out of stack.
    fn check(&self, text: &str) -> Result<()> {
        self.check_length(text)?;
        let (mut depth, mut deepest) = (0usize, 0);
        for byte in text.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        if deepest > Self::DEEPEST {
            let most = Self::DEEPEST;
            return Err(
                self.error(format!("{deepest} levels of brackets, expected at most {most}"))
            );
        }
        Ok(())
    }

    fn check_length(&self, text: &str) -> Result<()> {
        if text.len() > Self::LONGEST {
            let (found, most) = (text.len(), Self::LONGEST);
            return Err(self.error(format!("{found} bytes, expected at most {most}")));
        }
        Ok(())
    }

    fn separated(&self, schema: &Value) -> Result<Value> {
        match schema {
            Value::Object(_) => Ok(schema::prepared(schema)),
            Value::Bool(true) => Ok(schema::prepared(&json!({}))),
            Value::Bool(false) => Err(self.error("false allows no value")),
            _ => Err(self.error("expected an object, true or false")),
        }
    }
}
