//! Settings in the environment: `MLX_LLAMBA_OPTION` for all commands, `MLX_LLAMBA_COMMAND_OPTION`
//! for one.

use anyhow::{Result, bail};
use clap::{Arg, Command};

use super::check::{self, Value};
use super::{Origin, Setting, each_option, has_common_default};

/// The variable for an option of the command at `path`, or of all commands.
pub(crate) fn variable(path: &[String], option: &str) -> String {
    let words = ["mlx-llamba"].into_iter().chain(path.iter().map(String::as_str)).chain([option]);
    words.collect::<Vec<_>>().join("_").replace('-', "_").to_ascii_uppercase()
}

/// All settings in the environment that an option reads. Empty variables count as not set.
pub(super) fn read(command: &Command) -> Result<Vec<Setting>> {
    let mut found: Vec<Setting> = Vec::new();
    let mut refused = Vec::new();
    each_option(command, &mut |path, arg| {
        let Some(option) = arg.get_long() else { return };
        let common = Some(&[][..]).filter(|_| has_common_default(arg));
        for scope in [Some(path), common].into_iter().flatten() {
            let variable = variable(scope, option);
            // clap reads it by itself.
            if arg.get_env().is_some_and(|name| name.to_str() == Some(&variable)) {
                continue;
            }
            match accepted(arg, &variable) {
                Some(Ok(value)) => {
                    let origin = Origin::Environment { variable };
                    let (scope, option) = (scope.to_vec(), option.to_owned());
                    if !found.iter().any(|setting| setting.origin == origin) {
                        found.push(Setting { scope, option, values: vec![value], origin });
                    }
                }
                Some(Err(refusal)) => refused.push((variable, refusal)),
                None => {}
            }
        }
    });
    // Another command's option of that name may accept it.
    let accepted = |variable: &str| {
        found
            .iter()
            .any(|s| matches!(&s.origin, Origin::Environment { variable: v } if v == variable))
    };
    match refused.into_iter().find(|(variable, _)| !accepted(variable)) {
        Some((variable, refusal)) => bail!("{variable} in the environment: {refusal}"),
        None => Ok(found),
    }
}

/// The variable's value, if it is set, or why the option refuses it.
fn accepted(arg: &Arg, variable: &str) -> Option<Result<Value, String>> {
    let text = std::env::var_os(variable).filter(|text| !text.is_empty())?;
    let Ok(text) = text.into_string() else {
        return Some(Err("it is not UTF-8".to_owned()));
    };
    let value = Value::Plain(text);
    Some(check::values(arg, std::slice::from_ref(&value)).map(|_| value))
}
