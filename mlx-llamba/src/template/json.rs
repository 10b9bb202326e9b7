//! JSON values whose objects keep their order, and the text that Python's `json.dumps` makes.

use std::fmt::Write;

use minijinja::value::{Rest, Serde, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};
use serde::{Deserialize, Serialize};

use super::python::Arguments;

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
    state: &mut State<'_, '_>,
    given: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let (value, mut args) = Arguments::of_filter(given, &names)?;
    let mut writer = Writer {
        state,
        out: String::new(),
        ascii: args.flag(0, false),
        indent: unit(args.take(1))?,
        separators: (", ".into(), ": ".into()),
        sort: args.flag(3, false),
    };
    let separators = args.take(2).filter(|separators| !separators.is_none());
    if writer.indent.is_some() {
        writer.separators.0 = ",".into();
    }
    if let Some(separators) = separators {
        let texts = separators.try_iter()?.map(|text| text.as_str().map(ToOwned::to_owned));
        let texts: Option<Vec<String>> = texts.collect();
        let Some(Ok([item, key])) = texts.map(<[String; 2]>::try_from) else {
            return Err(invalid("tojson: separators must be two strings".into()));
        };
        writer.separators = (item, key);
    }
    writer.value(&value, 0)?;
    Ok(Value::from(writer.out))
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
                    writer.state.consume_fuel(writer.separators.1.len() as u64 / 16)?;
                    writer.out.push_str(&writer.separators.1);
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
                self.state.consume_fuel(self.separators.0.len() as u64 / 16)?;
                self.out.push_str(&self.separators.0);
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
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => match float.is_finite() {
            true => super::python::float(float),
            false if float.is_nan() => "NaN".to_owned(),
            false => format!("{}Infinity", if float < 0.0 { "-" } else { "" }),
        },
        _ => value.to_string(),
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
