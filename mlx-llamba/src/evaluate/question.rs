//! Multiple-choice questions out of JSON.

use serde_json::Value;

/// A text, what may follow it, and what should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The text before.
    pub context: String,
    /// What may follow, at least one.
    pub choices: Vec<String>,
    /// Which of them is right, counted from 0.
    pub answer: usize,
}

/// Names of the fields of a JSON object that hold a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Of the text before.
    pub context: String,
    /// Of the list of choices.
    pub choices: String,
    /// Of the right one's number, counted from 0, or its text.
    pub answer: String,
}

impl Question {
    /// A line of JSONL.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(line: &[u8], fields: &Fields) -> Result<Self, String> {
        let line: Value =
            serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let field = |name: &str| match line.get(name) {
            Some(value) => Ok(value),
            None => Err(format!("it has no field {name:?}")),
        };
        let wrong = |name: &str, expected: &str| format!("its field {name:?} is no {expected}");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let context =
            text(field(&fields.context)?).ok_or_else(|| wrong(&fields.context, "text"))?;
        let choices: Vec<String> = field(&fields.choices)?
            .as_array()
            .and_then(|choices| choices.iter().map(text).collect())
            .filter(|choices: &Vec<String>| !choices.is_empty())
            .ok_or_else(|| wrong(&fields.choices, "list of texts"))?;
        let answer = match field(&fields.answer)? {
            Value::String(text) => choices.iter().position(|choice| choice == text),
            number => number.as_u64().map(|n| n as usize).filter(|&n| n < choices.len()),
        };
        let expected = format!("number below {} and no choice", choices.len());
        let answer = answer.ok_or_else(|| wrong(&fields.answer, &expected))?;
        Ok(Self { context, choices, answer })
    }
}
