//! Defaults for options, from the environment and from a configuration file.
//!
//! Options are defined once, with clap. Settings become defaults of that definition before the
//! command line is read. The command line therefore overrides variables, variables override the
//! file, the file overrides built-in defaults, and `--help` shows the value in force.

mod file;
mod line;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Arg, Command};

pub(crate) use file::place;
pub(crate) use line::{Typed, parse};
use value::Value;

/// The place a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    File { path: PathBuf, line: usize },
    Environment { variable: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment { variable } => write!(f, "{variable} in the environment"),
        }
    }
}

/// A default for an option.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The command it is for, such as session, list; empty for all commands.
    pub(crate) scope: Vec<String>,
    /// The option's long name.
    pub(crate) option: String,
    values: Vec<Value>,
    pub(crate) origin: Origin,
}

impl Setting {
    /// Returns true if it is a default for this option of the command at `path`.
    fn reaches(&self, path: &[String], arg: &Arg) -> bool {
        arg.get_long() == Some(&self.option)
            && path.starts_with(&self.scope)
            && (!self.scope.is_empty() || has_common_default(arg))
    }

    /// Checks that an option accepts it. Fails with what the options it reaches expect instead, or
    /// with `None` if it reaches none.
    fn check(&self, options: &[(Vec<String>, &Arg)]) -> Result<(), Option<String>> {
        let reached = options.iter().filter(|(path, arg)| self.reaches(path, arg));
        let mut refused = None;
        for (_, arg) in reached {
            match value::check(arg, &self.values) {
                Ok(_) => return Ok(()),
                Err(expected) => refused = Some(expected),
            }
        }
        Err(refused)
    }

    /// Orders settings: the environment overrides the file, a command's own default the common one.
    fn precedence(&self) -> (bool, usize) {
        (matches!(self.origin, Origin::Environment { .. }), self.scope.len())
    }
}

/// All settings of this process.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads the environment and the file, and checks every setting against the options of
    /// `command` and its subcommands.
    pub(crate) fn read(command: &Command) -> Result<Self> {
        let mut settings = environment(&options(command))?;
        settings.extend(file::read(command)?);
        Ok(Self(settings))
    }

    /// All of them, in the order in which they were found.
    pub(crate) fn all(&self) -> &[Setting] {
        &self.0
    }

    /// Finds the setting in force for an option of the command at `path`, with its values. One that
    /// the option does not accept is meant for another command's option of that name.
    pub(crate) fn find(&self, path: &[String], arg: &Arg) -> Option<(&Setting, Vec<String>)> {
        let fits = self.0.iter().filter(|setting| setting.reaches(path, arg));
        let accepted =
            fits.filter_map(|setting| Some((setting, value::check(arg, &setting.values).ok()?)));
        accepted.max_by_key(|(setting, _)| setting.precedence())
    }
}

/// Returns false for an option whose meaning differs from command to command: it is marked with
/// `hide_env`, and takes defaults per command only.
fn has_common_default(arg: &Arg) -> bool {
    !arg.is_hide_env_set()
}

/// Lists every option that can have a default, with the path of its command.
pub(crate) fn options(command: &Command) -> Vec<(Vec<String>, &Arg)> {
    let own = command.get_arguments().filter(|arg| arg.get_long().is_some());
    let mut all: Vec<_> = own.map(|arg| (Vec::new(), arg)).collect();
    for subcommand in command.get_subcommands() {
        all.extend(options(subcommand).into_iter().map(|(mut path, arg)| {
            path.insert(0, subcommand.get_name().to_owned());
            (path, arg)
        }));
    }
    all
}

/// Returns the variable for an option of the command at `path`, or of all commands:
/// `MLX_LLAMBA_COMMAND_OPTION` or `MLX_LLAMBA_OPTION`.
fn variable(path: &[String], option: &str) -> String {
    let words = ["mlx-llamba"].into_iter().chain(path.iter().map(String::as_str)).chain([option]);
    words.collect::<Vec<_>>().join("_").replace('-', "_").to_ascii_uppercase()
}

/// The variables that set this option of the command at `path`, each with its scope.
fn variables_of<'p>(path: &'p [String], arg: &Arg) -> Vec<(&'p [String], String)> {
    let Some(option) = arg.get_long() else { return Vec::new() };
    let scopes = std::iter::once(path).chain(has_common_default(arg).then_some(&path[..0]));
    scopes.map(|scope| (scope, variable(scope, option))).collect()
}

/// Variables of this project that set no option: directories, kernels, builds.
const OTHERS: [&str; 7] = ["CONFIG", "DATA", "KERNELS", "THREADS", "SIMD", "CACHE", "RELOCATABLE"];

/// All variables of this project.
pub(crate) fn variables(command: &Command) -> BTreeSet<String> {
    let others = OTHERS.map(|name| format!("MLX_LLAMBA_{name}"));
    let options = options(command);
    let of_options = options.iter().flat_map(|(path, arg)| variables_of(path, arg));
    of_options.map(|(_, variable)| variable).chain(others).collect()
}

/// Reads all settings in the environment. Empty variables count as not set.
fn environment(options: &[(Vec<String>, &Arg)]) -> Result<Vec<Setting>> {
    let mut found: Vec<Setting> = Vec::new();
    for (path, arg) in options {
        for (scope, variable) in variables_of(path, arg) {
            let read_by_clap = arg.get_env().is_some_and(|name| *name == *variable);
            let text = std::env::var_os(&variable).filter(|text| !text.is_empty() && !read_by_clap);
            let Some(text) = text else { continue };
            let origin = Origin::Environment { variable };
            if found.iter().any(|setting| setting.origin == origin) {
                continue;
            }
            let Ok(text) = text.into_string() else { bail!("{origin}: it is not UTF-8") };
            let option = arg.get_long().unwrap_or_default().to_owned();
            let values = vec![Value::Untyped(text)];
            let setting = Setting { scope: scope.to_vec(), option, values, origin };
            match setting.check(options) {
                Err(Some(expected)) => bail!("{}: {expected}", setting.origin),
                _ => found.push(setting),
            }
        }
    }
    Ok(found)
}
