//! Whether an option accepts a setting.

use std::any::TypeId;
use std::error::Error as _;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// One value as it stands in a file or a variable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Number(String),
    Bool(bool),
    /// Of a variable, which has no types.
    Plain(String),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) | Self::Plain(text) => text.clone(),
            Self::Bool(value) => value.to_string(),
        }
    }
}

pub(super) fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The values as the command line would have them, or what was expected instead.
pub(super) fn values(arg: &Arg, values: &[Value]) -> Result<Vec<String>, String> {
    if is_flag(arg) {
        return match values {
            [Value::Bool(value)] => Ok(vec![value.to_string()]),
            [Value::Plain(text)] => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(vec!["true".to_owned()]),
                "0" | "false" | "no" | "off" => Ok(vec!["false".to_owned()]),
                _ => Err("expected true or false".to_owned()),
            },
            _ => Err("expected true or false".to_owned()),
        };
    }
    let many = matches!(arg.get_action(), ArgAction::Append);
    match values {
        [] => return Err("expected a value, not an empty list".to_owned()),
        [_, _, ..] if !many => return Err("expected one value, not a list".to_owned()),
        _ => {}
    }
    let kind = arg.get_value_parser().type_id();
    let of_text = kind == TypeId::of::<String>() || kind == TypeId::of::<PathBuf>();
    if of_text && values.iter().any(|v| matches!(v, Value::Number(_) | Value::Bool(_))) {
        return Err("expected a text, in quotes".to_owned());
    }
    let values: Vec<String> = values.iter().map(Value::text).collect();
    let option = Arg::new("value").long("value").action(arg.get_action().clone());
    let option = option.value_parser(arg.get_value_parser().clone()).allow_hyphen_values(true);
    let option = match arg.get_value_delimiter() {
        Some(delimiter) => option.value_delimiter(delimiter),
        None => option,
    };
    let given = values.iter().map(|value| format!("--value={value}"));
    let parsed = Command::new("").no_binary_name(true).arg(option).try_get_matches_from(given);
    parsed.map_err(|error| match expected(&error) {
        said if is_number(arg) => format!("expected a number: {said}"),
        said => said,
    })?;
    Ok(values)
}

fn is_number(arg: &Arg) -> bool {
    let kind = arg.get_value_parser().type_id();
    let floats = [TypeId::of::<f32>(), TypeId::of::<f64>()];
    let counts = [TypeId::of::<usize>(), TypeId::of::<u64>(), TypeId::of::<u32>()];
    floats.into_iter().chain(counts).any(|number| kind == number)
}

/// What clap's error has to say, without the command line that it speaks of.
fn expected(error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("expected one of {}", valid.join(", "));
    }
    match (error.kind(), error.source()) {
        (ErrorKind::ValueValidation, Some(source)) => source.to_string(),
        _ => error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

/// The name that an unknown one may have been meant for.
pub(super) fn similar<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let mut command = Command::new("").no_binary_name(true);
    let mut seen = std::collections::BTreeSet::new();
    for known in known.filter(|known| seen.insert(known.to_owned())) {
        command = command.arg(Arg::new(known.to_owned()).long(known.to_owned()));
    }
    let error = command.try_get_matches_from([format!("--{name}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(name) => Some(name.trim_start_matches("--").to_owned()),
        _ => None,
    }
}
