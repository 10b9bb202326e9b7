//! JSON values whose objects keep their order, and the text that Python's `json.dumps` makes.

use std::fmt::Write;

use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use serde::{Deserialize, Serialize};

/// A JSON value. Objects keep the order of their keys, which templates show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(pub(crate) Value);

impl Json {
    /// Parses JSON.
    ///
    /// # Errors
    /// The line and column of a mistake.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// True for an empty list.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.kind() == ValueKind::Seq && self.0.len() == Some(0)
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_str()
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self(Value::from(value))
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self(Value::from(Serde(value)))
    }
}

/// The depth to which values can be nested.
const DEPTH: usize = 128;

/// The filter `tojson` with the arguments of `transformers`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let mut writer = Writer {
        state,
        out: String::new(),
        indent: unit(indent)?,
        separators: (", ".into(), ": ".into()),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    if writer.indent.is_some() {
        writer.separators.0 = ",".into();
    }
    if let Some(separators) = separators {
        let Ok([item, key]) = <[String; 2]>::try_from(separators) else {
            return Err(invalid("tojson: separators must be two strings".into()));
        };
        writer.separators = (item, key);
    }
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// The indentation of one level.
fn unit(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) else {
        return Ok(None);
    };
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    match indent.as_i64() {
        Some(width @ ..=64) => Ok(Some(" ".repeat(width.max(0) as usize))),
        _ => Err(invalid(format!("tojson: indent is {indent}, expected at most 64 or a string"))),
    }
}

struct Writer<'a> {
    /// Charges fuel: a list can be part of another one any number of times.
    state: &'a State<'a, 'a>,
    out: String,
    indent: Option<String>,
    /// The separators between items and between a key and its value.
    separators: (String, String),
    ascii: bool,
    sort: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(invalid("tojson: the value is nested too deeply".into()));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items = self.items(value)?;
                self.list(('[', ']'), items, depth, |writer, item| writer.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys = self.items(value)?;
                if self.sort {
                    keys.sort();
                }
                self.list(('{', '}'), keys, depth, |writer, key| {
                    match key.as_str() {
                        Some(key) => writer.string(key)?,
                        None => writer.string(&key.to_string())?,
                    }
                    writer.out.push_str(&writer.separators.1.clone());
                    writer.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("tojson: a value of kind {kind} has no JSON"))),
        }
        Ok(())
    }

    fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        let pay = |item| self.state.consume_fuel(1).map(|()| item);
        value.try_iter()?.map(pay).collect()
    }

    fn list(
        &mut self,
        (open, close): (char, char),
        items: Vec<Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.separators.0.clone());
            }
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !empty {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.state.consume_fuel((indent.len() * depth) as u64 / 64)?;
            self.out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if !float.is_finite() {
        let sign = if float < 0.0 { "-" } else { "" };
        return if float.is_nan() { "NaN".into() } else { format!("{sign}Infinity") };
    }
    // The shortest digits that parse to the same number; Python writes an exponent below 1e-4 and
    // from 1e16 on.
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{float:?}"),
        exponent => format!("{digits}e{exponent:+03}"),
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
