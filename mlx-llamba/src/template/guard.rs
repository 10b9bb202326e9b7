//! Keeps special tokens that a template's input spells out from becoming tokens.
//!
//! A template can change its input in any way. So a mark is put before each character that must not
//! be part of a special token; the mark occurs nowhere else in the input, and comes out of the
//! template with the character. Input without special tokens gets no marks.

use minijinja::Value;
use minijinja::value::ValueKind;

use crate::tokenizer::Tokenizer;

/// The mark for the characters, if there are any.
pub(super) struct Guard<'t> {
    tokenizer: Option<&'t Tokenizer>,
    mark: Option<String>,
}

impl<'t> Guard<'t> {
    /// Searches `input` for spelled tokens; `source` is the text of the template.
    pub(super) fn new(tokenizer: Option<&'t Tokenizer>, source: &str, input: &[Value]) -> Self {
        let mut guard = Self { tokenizer, mark: None };
        let mut needed = false;
        guard.visit(input, &mut |text| needed |= !guard.places(text).is_empty());
        if needed {
            guard.mark = (0u64..).map(mark).find(|mark| {
                let mut free = !source.contains(mark);
                guard.visit(input, &mut |text| free &= !text.contains(mark));
                free
            });
        }
        guard
    }

    pub(super) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    /// A copy of `value` with the marks in its texts.
    pub(super) fn marked(&self, value: &Value) -> Value {
        let Some(mark) = &self.mark else { return value.clone() };
        match (value.kind(), value.try_iter()) {
            (ValueKind::String, _) => match value.as_str() {
                Some(text) => self.insert(text, mark),
                None => value.clone(),
            },
            (ValueKind::Seq, Ok(items)) => items.map(|item| self.marked(&item)).collect(),
            (ValueKind::Map, Ok(keys)) => Value::from_pairs(keys.map(|key| {
                let value = value.get_item(&key).unwrap_or_default();
                (self.marked(&key), self.marked(&value))
            })),
            _ => value.clone(),
        }
    }

    fn insert(&self, text: &str, mark: &str) -> Value {
        let (mut out, mut done) = (String::with_capacity(text.len()), 0);
        for at in self.places(text) {
            out.push_str(&text[done..at]);
            out.push_str(mark);
            done = at;
        }
        Value::from(out + &text[done..])
    }

    fn places(&self, text: &str) -> Vec<usize> {
        self.tokenizer.map_or(Vec::new(), |tokenizer| tokenizer.guards(text))
    }

    /// Calls `see` with every text in `values`.
    fn visit(&self, values: &[Value], see: &mut dyn FnMut(&str)) {
        for value in values {
            match (value.as_str(), value.kind()) {
                (Some(text), _) => see(text),
                (None, ValueKind::Seq | ValueKind::Map) => {
                    let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
                    if value.kind() == ValueKind::Map {
                        let inner = items.iter().map(|key| value.get_item(key).unwrap_or_default());
                        let inner: Vec<Value> = inner.collect();
                        self.visit(&inner, see);
                    }
                    self.visit(&items, see);
                }
                _ => {}
            }
        }
    }
}

/// A mark that JSON, HTML and URLs do not escape, and no end of which is its beginning: between two
/// texts without it, it occurs once.
fn mark(number: u64) -> String {
    format!("~{number}^")
}
