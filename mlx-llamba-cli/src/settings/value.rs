//! Values of settings, and the check that an option accepts them.

use std::any::TypeId;
use std::error::Error as _;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// A value as a file or a variable has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A number, true or false.
    Typed(String),
    /// The value of a variable.
    Untyped(String),
}

impl Value {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Typed(text) | Self::Untyped(text) => text,
        }
    }
}

pub(super) fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Returns the values as the command line would have them, or what was expected instead.
pub(super) fn check(arg: &Arg, values: &[Value]) -> Result<Vec<String>, String> {
    if is_flag(arg) {
        return flag(values).map(|is_on| vec![is_on.to_string()]);
    }
    match values {
        [] => return Err("expected a value, not an empty list".to_owned()),
        [_, _, ..] if !matches!(arg.get_action(), ArgAction::Append) => {
            return Err("expected one value, not a list".to_owned());
        }
        _ => {}
    }
    let parser = arg.get_value_parser();
    let is_one_of = |types: &[TypeId]| types.iter().any(|kind| parser.type_id() == *kind);
    let is_text = is_one_of(&[TypeId::of::<String>(), TypeId::of::<PathBuf>()]);
    if is_text && values.iter().any(|value| matches!(value, Value::Typed(_))) {
        return Err("expected a text, in quotes".to_owned());
    }
    let values: Vec<String> = values.iter().map(|value| value.text().to_owned()).collect();
    let option = Arg::new("value").long("value").action(arg.get_action().clone());
    let option = option.value_parser(parser.clone()).value_delimiter(arg.get_value_delimiter());
    let line = values.iter().map(|value| format!("--value={value}"));
    let parsed = Command::new("").no_binary_name(true).arg(option).try_get_matches_from(line);
    let is_number = is_one_of(&[
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
        TypeId::of::<usize>(),
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
    ]);
    parsed.map_err(|error| match expected(&error) {
        expected if is_number => {
            let said = plain(&expected, values.first().map_or("", String::as_str));
            if said.starts_with("expected a") { said } else { format!("expected a number: {said}") }
        }
        expected => expected,
    })?;
    Ok(values)
}

fn flag(values: &[Value]) -> Result<bool, String> {
    let word = match values {
        [Value::Typed(text)] => text.clone(),
        [Value::Untyped(text)] => text.trim().to_ascii_lowercase(),
        _ => String::new(),
    };
    let is_variable = matches!(values, [Value::Untyped(_)]);
    match word.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        "1" | "yes" | "on" if is_variable => Ok(true),
        "0" | "no" | "off" if is_variable => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Returns the reason that clap gives, without the command line it refers to.
fn expected(error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("expected one of {}", valid.join(", "));
    }
    match (error.kind(), error.source()) {
        (ErrorKind::ValueValidation, Some(source)) => source.to_string(),
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

/// Returns the known name that an unknown one most resembles, as clap judges it.
pub(super) fn similar<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let known: std::collections::BTreeSet<&str> = known.collect();
    let options = known.into_iter().map(|name| Arg::new(name.to_owned()).long(name.to_owned()));
    let command = Command::new("").no_binary_name(true).args(options);
    let error = command.try_get_matches_from([format!("--{name}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(name) => Some(name.trim_start_matches("--").to_owned()),
        _ => None,
    }
}

/// Replaces what Rust's parsers say about a number.
pub(super) fn plain(message: &str, value: &str) -> String {
    let whole = match value.parse::<i128>() {
        Ok(..0) => "expected a whole number that is not negative",
        Ok(_) => "this number is too large",
        Err(_) => "expected a whole number",
    };
    let words = [
        ("invalid digit found in string", whole),
        ("number too large to fit in target type", "this number is too large"),
        ("number too small to fit in target type", "this number is too small"),
        ("cannot parse integer from empty string", "expected a whole number"),
        ("cannot parse float from empty string", "expected a number"),
        ("invalid float literal", "expected a number"),
    ];
    words.iter().fold(message.to_owned(), |text, (raw, words)| text.replace(raw, words))
}
