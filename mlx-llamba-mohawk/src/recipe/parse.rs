//! From TOML to recipes, with errors that name the key.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{DataOptions, EvaluationOptions, StageName, StudentOptions};
use crate::train::StageOptions;
use crate::{Error, Result};

pub(super) fn bad(origin: &str, key: &str, reason: impl Into<String>) -> Error {
    Error::Recipe { origin: origin.to_owned(), key: key.to_owned(), reason: reason.into() }
}

/// Reads a recipe with changes.
pub(super) fn parse<T: DeserializeOwned>(
    origin: &str,
    text: &str,
    changes: &[String],
) -> Result<T> {
    let mut table: Table = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count();
        bad(origin, &format!("line {}", line + 1), error.message())
    })?;
    for change in changes {
        apply(&mut table, change)?;
    }
    // Tables one by one: the message of a value deep inside does not say where it stands.
    for (name, value) in &table {
        if let Value::Table(inner) = value {
            check_table(origin, name, inner)?;
        }
    }
    check_fields::<T>(origin, "top level", &table)
}

/// Reads a table of a recipe as what it is, for the sake of the error.
fn check_table(origin: &str, name: &str, table: &Table) -> Result<()> {
    match name {
        "orientation" | "alignment" | "distillation" | "training" => {
            check_fields::<StageOptions>(origin, name, table).map(drop)
        }
        "student" => check_fields::<StudentOptions>(origin, name, table).map(drop),
        "data" => check_fields::<DataOptions>(origin, name, table).map(drop),
        "evaluation" => check_fields::<EvaluationOptions>(origin, name, table).map(drop),
        "checkpoint" => check_fields::<super::CheckpointOptions>(origin, name, table).map(drop),
        _ => Ok(()),
    }
}

fn check_fields<T: DeserializeOwned>(origin: &str, name: &str, table: &Table) -> Result<T> {
    let read = |table: Table| -> Result<T, String> {
        let parsed: Result<T, toml::de::Error> = table.try_into();
        parsed.map_err(|error| error.message().lines().collect::<Vec<_>>().join("; "))
    };
    let error = match read(table.clone()) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    // The field is at fault without which the error is another one.
    let culprit = table.keys().find(|&key| {
        let mut less = table.clone();
        less.remove(key);
        read(less).err().is_none_or(|other| other != error)
    });
    match culprit {
        Some(key) if error.starts_with("invalid") && name == "top level" => {
            Err(bad(origin, key, error))
        }
        Some(key) if error.starts_with("invalid") => {
            Err(bad(origin, &format!("{name}.{key}"), error))
        }
        _ => Err(bad(origin, name, error)),
    }
}

/// Sets one key, `a.b=value`; the value is TOML, or a text without quotes.
fn apply(table: &mut Table, change: &str) -> Result<()> {
    let reason = "expected KEY=VALUE, such as alignment.lr=1e-4";
    let bad = || bad("--set", change, reason);
    let (key, value) = change.split_once('=').ok_or_else(bad)?;
    let value = value.trim();
    let parsed = toml::from_str::<Table>(&format!("v = {value}")).ok();
    let value = parsed.and_then(|mut table| table.remove("v"));
    let value = value.unwrap_or_else(|| {
        Value::String(change.split_once('=').map_or("", |c| c.1.trim()).to_owned())
    });
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(bad)?;
    let mut at = table;
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        at = entry.as_table_mut().ok_or_else(bad)?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

pub(super) fn check_stage(origin: &str, name: &str, options: &StageOptions) -> Result<()> {
    match options.problem() {
        Some((field, expected)) => {
            Err(bad(origin, &format!("{name}.{field}"), format!("expected {expected}")))
        }
        None => Ok(()),
    }
}

/// Options that have no meaning in a stage must not be set there.
pub(super) fn check_foreign(origin: &str, stage: StageName, options: &StageOptions) -> Result<()> {
    let (first, second) = (stage == StageName::Orientation, stage == StageName::Alignment);
    let third = stage == StageName::Distillation;
    let checks = [
        ("norms", options.norms && third, "distillation trains everything, the norms too"),
        ("mlp", options.mlp && !second, "only alignment has it"),
        ("recompute", options.recompute && !third, "only distillation has it"),
        ("next_token", options.next_token != 0.0 && (first || second), "only distillation has it"),
        (
            "temperature",
            options.temperature != 1.0 && (first || second),
            "only distillation has it",
        ),
    ];
    match checks.iter().find(|(_, wrong, _)| *wrong) {
        Some((field, _, reason)) => Err(bad(origin, &format!("{}.{field}", stage.name()), *reason)),
        None => Ok(()),
    }
}

pub(super) fn check_rest(
    origin: &str,
    student: &StudentOptions,
    data: &DataOptions,
    evaluation: &EvaluationOptions,
) -> Result<()> {
    let half_lives = student.half_lives.iter().all(|&tokens| tokens.is_finite() && tokens > 0.0);
    let checks = [
        (
            "student.copy_scale",
            student.copy_scale.is_finite() && student.copy_scale >= 0.0,
            "a number, 0 or above",
        ),
        ("student.skip", student.skip.is_finite(), "a number"),
        ("student.half_lives", half_lives, "numbers above 0"),
        ("data.field", !data.field.is_empty(), "a name"),
        (
            "data.heldout_every",
            data.heldout_every != 1,
            "0, or 2 and above: 1 holds out everything",
        ),
        ("evaluation.length", evaluation.length >= 2, "2 or above"),
    ];
    match checks.iter().find(|(_, sound, _)| !sound) {
        Some((key, _, expected)) => Err(bad(origin, key, format!("expected {expected}"))),
        None => Ok(()),
    }
}
