//! Calls as Python writes them, with literals as arguments.

use serde_json::{Map, Number, Value};

use super::ToolCall;

/// The deepest nesting of lists and dictionaries.
const DEEPEST: usize = 64;

/// A list of calls; `None` if the text is anything else.
pub(super) fn calls(text: &str) -> Option<Vec<ToolCall>> {
    let mut reader = Reader { rest: text };
    let calls = reader.list('[', ']', |reader| {
        let name = reader.name()?;
        let mut arguments = Map::new();
        let pairs = reader.list('(', ')', |reader| {
            let key = reader.name()?;
            reader.take('=')?;
            Some((key, reader.value(DEEPEST)?))
        })?;
        arguments.extend(pairs);
        Some(ToolCall { name, arguments: Value::Object(arguments).to_string() })
    })?;
    reader.skip();
    reader.rest.is_empty().then_some(calls)
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, c: char) -> Option<()> {
        self.skip();
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }

    fn name(&mut self) -> Option<String> {
        self.skip();
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c)))?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Items between brackets, with commas between them and maybe after the last one.
    fn list<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.take(open)?;
        let mut items = Vec::new();
        loop {
            if self.take(close).is_some() {
                return Some(items);
            }
            items.push(item(self)?);
            if self.take(',').is_none() {
                self.take(close)?;
                return Some(items);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.skip();
        match self.rest.chars().next()? {
            '[' => self.list('[', ']', |reader| reader.value(depth)).map(Value::Array),
            '(' => self.list('(', ')', |reader| reader.value(depth)).map(Value::Array),
            '{' => {
                let pairs = self.list('{', '}', |reader| {
                    let Value::String(key) = reader.value(depth)? else { return None };
                    reader.take(':')?;
                    Some((key, reader.value(depth)?))
                });
                Some(Value::Object(pairs?.into_iter().collect()))
            }
            quote @ ('"' | '\'') => self.string(quote).map(Value::String),
            _ => self.word(),
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => {
                        let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                        text.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    other @ ('\\' | '\'' | '"' | '/') => text.push(other),
                    other => text.extend(['\\', other]),
                },
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }

    /// A number, or the name of a constant in Python or JSON.
    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            _ => word.parse::<Number>().ok().map(Value::Number),
        }
    }
}
