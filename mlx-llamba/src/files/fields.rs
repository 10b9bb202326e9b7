//! Reads the fields of a JSON object and collects everything that is wrong with them.

use std::cell::RefCell;

use serde_json::{Map, Value};

use crate::error::{FieldProblem, printable};

/// The problems found so far.
#[derive(Default)]
pub struct Problems(RefCell<Vec<FieldProblem>>);

impl Problems {
    /// Adds a problem.
    pub fn add(&self, field: impl Into<String>, found: impl ToString, expected: impl Into<String>) {
        self.0.borrow_mut().push(FieldProblem {
            field: printable(&field.into()),
            found: shorten(found.to_string()),
            expected: expected.into(),
        });
    }

    /// Returns `value` if there is no problem.
    ///
    /// # Errors
    /// All the problems.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<FieldProblem>> {
        let problems = self.0.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(problems),
        }
    }
}

/// Limits the length of a value in an error message.
fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// The fields of a JSON object.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    prefix: &'a str,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// Reads the fields of `object` and adds problems to `problems`.
    pub fn new(object: &'a Map<String, Value>, problems: &'a Problems) -> Self {
        Self { object: Some(object), prefix: "", problems }
    }

    /// The nested object `key`, or `None` if it is absent. Another type is a problem.
    ///
    /// # Errors
    /// An empty error for another type; the problem was added.
    #[allow(clippy::result_unit_err)]
    pub fn nested(&self, key: &'a str) -> Result<Option<Fields<'a>>, ()> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                Ok(Some(Self { object: Some(object), prefix: key, problems: self.problems }))
            }
            Some(other) => {
                self.add(key, other, "an object");
                Err(())
            }
        }
    }

    /// The dotted name of a field.
    pub fn name(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    /// Adds a problem with a field.
    pub fn add(&self, key: &str, found: impl ToString, expected: impl Into<String>) {
        self.problems.add(self.name(key), found, expected);
    }

    /// The value; `None` if it is absent or `null`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|value| !value.is_null())
    }

    /// Reads a whole number from 1 to `max`.
    pub fn size(&self, key: &str, default: Option<usize>, max: usize) -> Option<usize> {
        let expected = || format!("a whole number from 1 to {max}");
        let Some(value) = self.get(key) else {
            if default.is_none() {
                self.add(key, "missing", expected());
            }
            return default;
        };
        // Some tools write sizes as floats: 4096.0.
        let whole = |n: &f64| n.fract() == 0.0 && (0.0..9e15).contains(n);
        let number = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|n| n as u64));
        let size = number.and_then(|n| usize::try_from(n).ok());
        match size.filter(|n| (1..=max).contains(n)) {
            Some(size) => Some(size),
            None => {
                self.add(key, value, expected());
                None
            }
        }
    }

    /// Reads `true` or `false`.
    pub fn flag(&self, key: &str, default: Option<bool>) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            Some(other) => {
                self.add(key, other, "true or false");
                None
            }
            None => {
                if default.is_none() {
                    self.add(key, "missing", "true or false");
                }
                default
            }
        }
    }

    /// Reads a number above 0 and below 1.
    pub fn epsilon(&self, key: &str, default: f64) -> Option<f64> {
        let legal = |e| e > 0.0 && e < 1.0;
        self.number(key, Some(default), "a number above 0 and below 1", legal)
    }

    /// Reads a number that `legal` accepts.
    pub fn number(
        &self,
        key: &str,
        default: Option<f64>,
        expected: &str,
        legal: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        let Some(value) = self.get(key) else {
            if default.is_none() {
                self.add(key, "missing", expected);
            }
            return default;
        };
        let number = value.as_f64().filter(|&number| legal(number));
        if number.is_none() {
            self.add(key, value, expected);
        }
        number
    }

    /// Reads one of the words that `read` knows.
    pub fn word<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            None => {
                self.add(key, "missing", expected);
                None
            }
            Some(value) => {
                let word = value.as_str().and_then(read);
                if word.is_none() {
                    self.add(key, value, expected);
                }
                word
            }
        }
    }

    /// Reads a token id or a list of them.
    pub fn ids(&self, key: &str) -> Vec<u32> {
        token_ids(self.get(key).unwrap_or(&Value::Null)).unwrap_or_else(|| {
            self.add(key, self.get(key).unwrap_or(&Value::Null), "a token id or a list of them");
            Vec::new()
        })
    }
}

/// An id, a list of ids, or nothing; `None` for something else. Some tools write -1 for no token, and
/// ids as floats.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| {
        let whole = value.as_f64().filter(|n| n.fract() == 0.0)?;
        if whole == -1.0 {
            return Some(None);
        }
        let id = (0.0..=f64::from(u32::MAX)).contains(&whole).then_some(whole as u32);
        id.map(Some)
    };
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list
            .iter()
            .map(one)
            .collect::<Option<Vec<_>>>()
            .map(|ids| ids.into_iter().flatten().collect()),
        value => one(value).map(|id| id.into_iter().collect()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_at_a_character() {
        let problems = Problems::default();
        problems.add("x", "é".repeat(500), "less");
        let list = problems.into_result::<()>(None).unwrap_err();
        assert_eq!(list[0].found.chars().count(), 63);
    }
}
