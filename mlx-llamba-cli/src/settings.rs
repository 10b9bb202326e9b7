//! Defaults of options, from the environment and from a configuration file.
//!
//! Options are defined once, with clap. Settings become defaults of that definition before the
//! command line is read, so that a flag goes before a variable, a variable before the file, the file
//! before what is built in, and `--help` shows the value in force.

mod apply;
mod check;
mod choose;
mod environment;
mod explicit;
mod file;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory, FromArgMatches};

pub(crate) use explicit::Explicit;
use explicit::Said;
pub(crate) use file::place;

/// Where a setting stands.
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
    /// The command it is for, such as session, list; none for all commands.
    pub(crate) scope: Vec<String>,
    /// The option's long name.
    pub(crate) option: String,
    pub(crate) values: Vec<check::Value>,
    pub(crate) origin: Origin,
}

/// All settings of this process.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads the environment and the file, and checks every setting against the options that
    /// `command` and its subcommands have.
    pub(crate) fn read(command: &Command) -> Result<Self> {
        let mut settings = environment::read(command)?;
        settings.extend(file::read(command)?);
        Ok(Self(settings))
    }

    /// All of them, as they were found.
    pub(crate) fn all(&self) -> &[Setting] {
        &self.0
    }

    /// The setting for an option of the command at `path`, if there is one that it accepts, and its
    /// values: the environment's before the file's, the command's own before that of all.
    pub(crate) fn find(&self, path: &[String], arg: &Arg) -> Option<(&Setting, Vec<String>)> {
        let fits = self.0.iter().filter(|setting| setting.reaches(path, arg));
        let values =
            fits.filter_map(|setting| Some((setting, check::values(arg, &setting.values).ok()?)));
        values.max_by_key(|(setting, _)| {
            (matches!(setting.origin, Origin::Environment { .. }), setting.scope.len())
        })
    }
}

impl Setting {
    /// Whether it speaks of this option of the command at `path`.
    fn reaches(&self, path: &[String], arg: &Arg) -> bool {
        arg.get_long() == Some(&self.option)
            && path.starts_with(&self.scope)
            && (!self.scope.is_empty() || has_common_default(arg))
    }
}

/// Whether an option may have a default for all commands at once. One that means something else
/// from command to command is marked with `hide_env`, and has defaults per command only.
pub(crate) fn has_common_default(arg: &Arg) -> bool {
    !arg.is_hide_env_set()
}

/// Calls `visit` for every option that can have a default, with the path of its command.
pub(crate) fn each_option<'c>(command: &'c Command, visit: &mut dyn FnMut(&[String], &'c Arg)) {
    fn walk<'c>(
        command: &'c Command,
        path: &mut Vec<String>,
        visit: &mut dyn FnMut(&[String], &'c Arg),
    ) {
        for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
            visit(path, arg);
        }
        for subcommand in command.get_subcommands() {
            path.push(subcommand.get_name().to_owned());
            walk(subcommand, path, visit);
            path.pop();
        }
    }
    walk(command, &mut Vec::new(), visit);
}

/// Variables of this project that set no option: directories, kernels, builds.
const OTHERS: [&str; 7] = ["CONFIG", "DATA", "KERNELS", "THREADS", "SIMD", "CACHE", "RELOCATABLE"];

/// All variables of this project.
pub(crate) fn variables(command: &Command) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = OTHERS.map(|name| format!("MLX_LLAMBA_{name}")).into();
    each_option(command, &mut |path, arg| {
        let Some(option) = arg.get_long() else { return };
        known.insert(environment::variable(path, option));
        if has_common_default(arg) {
            known.insert(environment::variable(&[], option));
        }
    });
    known
}

/// These work, and help to put it right, while a setting is wrong.
const UNMOVED: [&str; 4] = ["config", "doctor", "completions", "man"];

/// Reads the command line, with the settings as defaults. Ends the process for help, and for what
/// cannot be understood.
pub(crate) fn parse<C: CommandFactory + FromArgMatches>() -> Result<C> {
    let command = C::command();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let settings = match Settings::read(&command) {
        Ok(settings) => settings,
        Err(error) => {
            let path = Said::glance(command.clone(), &arguments).path;
            if path.first().is_some_and(|name| !UNMOVED.contains(&name.as_str())) {
                return Err(error);
            }
            Settings::default()
        }
    };
    let choice = settings.choose(&settings.open(command.clone()), &arguments);
    let command = settings.apply(command, &choice);
    let mut command_for_errors = command.clone();
    let matches = choice.read(command, &arguments).unwrap_or_else(|error| error.exit());
    Ok(C::from_arg_matches(&matches)
        .unwrap_or_else(|error| error.format(&mut command_for_errors).exit()))
}
