//! Multiple-choice questions in JSON.

use serde_json::Value;

use crate::files::json;

/// A text, its possible continuations, and the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The text before the choices.
    pub context: String,
    /// The possible continuations, at least one.
    pub choices: Vec<String>,
    /// The index of the right one, counted from 0.
    pub answer: usize,
}

/// The names of the fields that hold a question in a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The field of the context.
    pub context: String,
    /// The field of the list of choices.
    pub choices: String,
    /// The field of the right choice: its index, counted from 0, or its text.
    pub answer: String,
}

impl Question {
    /// Parses a line of JSONL.
    ///
    /// # Errors
    /// A description of the first problem.
    pub fn parse(line: &[u8], fields: &Fields) -> Result<Self, String> {
        let line: Value =
            json::from_slice(line).map_err(|error| format!("not valid JSON: {error}"))?;
        let field = |name: &str| match line.get(name) {
            Some(value) => Ok(value),
            None => Err(format!("it has no field {name:?}")),
        };
        let wrong = |name: &str, expected: &str| format!("its field {name:?} is not {expected}");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let context =
            text(field(&fields.context)?).ok_or_else(|| wrong(&fields.context, "a string"))?;
        let choices: Vec<String> = field(&fields.choices)?
            .as_array()
            .and_then(|choices| choices.iter().map(text).collect())
            .filter(|choices: &Vec<String>| !choices.is_empty())
            .ok_or_else(|| wrong(&fields.choices, "a list of strings"))?;
        let answer = match field(&fields.answer)? {
            Value::String(text) => choices.iter().position(|choice| choice == text),
            number => number.as_u64().map(|n| n as usize).filter(|&n| n < choices.len()),
        };
        let expected = format!("an index below {} or one of the choices", choices.len());
        let answer = answer.ok_or_else(|| wrong(&fields.answer, &expected))?;
        Ok(Self { context, choices, answer })
    }
}
