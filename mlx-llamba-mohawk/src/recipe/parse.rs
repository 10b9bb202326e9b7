//! Reads recipes from TOML; errors name the key.

use toml::{Table, Value};

use super::{MixerInit, Recipe, StageName, StudentOptions};
use crate::data::Packing;
use crate::stages::Compared;
use crate::train::StageOptions;
use crate::{Error, Result};

pub(crate) fn bad(origin: &str, key: &str, reason: impl Into<String>) -> Error {
    Error::Recipe { origin: origin.to_owned(), key: key.to_owned(), reason: reason.into() }
}

/// Parses a recipe, with changes.
pub(super) fn parse(origin: &str, text: &str, changes: &[String]) -> Result<Recipe> {
    let mut table: Table = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count();
        bad(origin, &format!("line {}", line + 1), error.message())
    })?;
    for change in changes {
        apply(&mut table, change)?;
    }
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { "top level" } else { &path };
        let reason = error.inner().message().lines().collect::<Vec<_>>().join("; ");
        bad(origin, key, reason)
    })
}

/// Sets one key, `a.b=value`; the value is TOML, or text without quotes.
fn apply(table: &mut Table, change: &str) -> Result<()> {
    let bad = || bad("--set", change, "expected KEY=VALUE, such as alignment.lr=1e-4");
    let (key, value) = change.split_once('=').ok_or_else(bad)?;
    let value = value.trim();
    let parsed = toml::from_str::<Table>(&format!("v = {value}")).ok();
    let parsed = parsed.and_then(|mut table| table.remove("v"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
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

/// Refuses invalid values, and options that have no meaning in their stage.
pub(super) fn check(origin: &str, recipe: &Recipe) -> Result<()> {
    for (stage, options) in recipe.stages() {
        let problem =
            options.problem().map(|(field, expected)| (field, format!("expected {expected}")));
        if let Some((field, reason)) = problem.or_else(|| foreign(stage, options)) {
            return Err(bad(origin, &format!("{}.{field}", stage.name()), reason));
        }
    }
    const FITTED: &str = "student.init = \"copy\" or \"random\" beside it: the calibration fits it";
    let (student, data) = (&recipe.student, &recipe.data);
    let fitted = match student.mixer_init() {
        MixerInit::Calibrated if recipe.training.is_none() => StudentOptions::default(),
        _ => student.clone(),
    };
    let half_lives = student.half_lives.iter().all(|&tokens| tokens.is_finite() && tokens > 0.0);
    let scale = student.copy_scale.is_finite() && student.copy_scale >= 0.0;
    let checks = [
        ("student.copy_scale", scale, "a number, 0 or above"),
        ("student.skip", student.skip.is_finite(), "a number"),
        ("student.half_lives", half_lives, "numbers above 0"),
        (
            "student.copy_qkvo",
            student.init.is_none() || student.copy_qkvo.is_none(),
            "init or copy_qkvo, not both",
        ),
        ("student.copy_scale", fitted.copy_scale == student.copy_scale, FITTED),
        ("student.skip", fitted.skip == student.skip, FITTED),
        ("student.half_lives", fitted.half_lives == student.half_lives, FITTED),
        (
            "data.weights",
            data.weights.iter().all(|weight| weight.is_finite() && *weight > 0.0),
            "numbers above 0",
        ),
        (
            "data.weights",
            data.weights.is_empty() || data.packing == Packing::Documents,
            "packing = \"documents\" beside it",
        ),
        ("data.field", !data.field.is_empty(), "a name"),
        (
            "data.heldout_every",
            data.heldout_every != 1,
            "0, or 2 and above: 1 holds out everything",
        ),
        ("evaluation.length", recipe.evaluation.length >= 2, "2 or above"),
    ];
    match checks.iter().find(|(_, sound, _)| !sound) {
        Some((key, _, expected)) => Err(bad(origin, key, format!("expected {expected}"))),
        None => Ok(()),
    }
}

/// Returns the first option that has no meaning in its stage, and the reason.
fn foreign(stage: StageName, options: &StageOptions) -> Option<(&'static str, String)> {
    use StageName::{Alignment, Distillation, Orientation};
    let (early, middle, last) = ([Orientation, Alignment], [Alignment], [Distillation]);
    let first = [Orientation];
    let early_only = "only orientation and alignment have it: others train the norms anyway";
    let checks = [
        ("norms", options.norms, &early[..], early_only),
        ("mlp", options.mlp, &middle[..], "only alignment has it"),
        (
            "compared",
            options.compared != Compared::default(),
            &first[..],
            "only orientation has it",
        ),
        ("recompute", options.recompute, &last[..], "only distillation has it"),
        ("next_token", options.next_token != 0.0, &last[..], "only distillation has it"),
        ("temperature", options.temperature != 1.0, &last[..], "only distillation has it"),
    ];
    let found = checks.into_iter().find(|(_, set, stages, _)| *set && !stages.contains(&stage));
    found.map(|(field, _, _, reason)| (field, reason.to_owned()))
}
