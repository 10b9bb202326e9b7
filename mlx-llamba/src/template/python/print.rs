//! The text of values, as Python prints them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Error, Output, State, Value, escape_formatter};

use super::{super::weights, invalid};

/// The depth to which values are printed.
const DEPTH: usize = 160;

/// Prints the value of an expression between braces.
pub(super) fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if matches!(state.auto_escape(), AutoEscape::None) {
        if value.as_str().is_some() {
            return escape_formatter(out, state, value);
        }
        return Ok(out.write_str(&text(state, value)?)?);
    }
    let text = text(state, value)?;
    Ok(out.write_str(&if value.is_safe() { text } else { escaped(&text) })?)
}

/// The text of a value, as `str` makes it.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let mut out = String::new();
            write(state, value, &mut out, 0)?;
            Ok(out)
        }
    }
}

/// The text of a value, as `repr` makes it.
pub(super) fn repr(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write(state, value, &mut out, 0)?;
    Ok(out)
}

fn write(
    state: &State<'_, '_>,
    value: &Value,
    out: &mut String,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(invalid("a value is nested too deeply"));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 16)?;
            quoted(text, out);
        }
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => out.push_str(&float(number)),
            Err(_) => out.push_str(&value.to_string()),
        },
        ValueKind::Undefined if depth > 0 => out.push_str("Undefined"),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(state, &item, out, depth + 1)?;
            }
            out.push_str(if value.is_tuple() && value.len() == Some(1) { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map if weights::is_data(value) || weights::is_namespace(value) => {
            let namespace = weights::is_namespace(value);
            out.push_str(if namespace { "<Namespace {" } else { "{" });
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(state, &key, out, depth + 1)?;
                out.push_str(": ");
                write(state, &value.get_item(&key)?, out, depth + 1)?;
            }
            out.push_str(if namespace { "}>" } else { "}" });
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text between quotes, with escapes for what cannot be printed.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        // Writing to a text cannot fail.
        let _ = match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => out.write_char(c),
            c => match u32::from(c) {
                code @ ..0x100 => write!(out, "\\x{code:02x}"),
                code @ ..0x10000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            },
        };
    }
    out.push(quote);
}

/// True for the characters that Python prints as they are: those that Rust does not escape behind
/// another one.
pub(super) fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~')
        || !c.is_control() && {
            let mut after = String::from("a");
            after.push(c);
            !after.escape_debug().to_string().contains("\\u{")
        }
}

/// A number as Python prints it: the shortest digits that parse to the same number, with an exponent
/// below 1e-4 and from 1e16 on.
pub(in super::super) fn float(number: f64) -> String {
    if !number.is_finite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return if number.is_nan() { "nan".to_owned() } else { format!("{sign}inf") };
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{number:?}"),
        exponent => format!("{digits}e{exponent:+03}"),
    }
}

/// A text with entities for the characters that HTML reserves.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
