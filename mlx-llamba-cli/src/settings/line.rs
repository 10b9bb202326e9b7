//! The command line, read with the settings as defaults.
//!
//! A default yields to a conflicting option and is ignored where an option it requires is missing.
//! clap does both for defaults, except that the command still sees the value of one that yields:
//! these are left out. It does not count a default as an option that another one requires: such a
//! default is put into the line.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsString;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use super::Settings;
use super::value::{is_flag, plain};

/// Commands that help to correct a wrong setting, and run in spite of it.
const INDEPENDENT: [&str; 4] = ["config", "doctor", "completions", "man"];

/// Reads the command line, with the settings as defaults. Ends the process for help and for usage
/// errors.
///
/// # Errors
/// If a setting is wrong.
pub(crate) fn parse<C: CommandFactory + FromArgMatches>() -> Result<C> {
    let command = C::command();
    let mut line: Vec<OsString> = std::env::args_os().collect();
    let settings = match Settings::read(&command) {
        Ok(settings) => settings,
        Err(error) => match called(&command, &line).first() {
            Some(name) if !INDEPENDENT.contains(&name.as_str()) => return Err(error),
            _ => Settings::default(),
        },
    };
    let command = settings.apply(command, &mut line);
    let parsed =
        command.clone().try_get_matches_from(line).and_then(|all| C::from_arg_matches(&all));
    Ok(parsed.unwrap_or_else(|error| {
        let error = error.format(&mut command.clone());
        if error.kind() == ErrorKind::ValueValidation {
            let value = error.get(ContextKind::InvalidValue).map(ToString::to_string);
            eprint!("{}", plain(&error.render().to_string(), &value.unwrap_or_default()));
            std::process::exit(error.exit_code());
        }
        error.exit()
    }))
}

/// The path of the command that a line calls.
fn called(command: &Command, line: &[OsString]) -> Vec<String> {
    let mut path = Vec::new();
    let mut command = command;
    for word in line.iter().skip(1) {
        if let Some(inner) = command.find_subcommand(word) {
            path.push(inner.get_name().to_owned());
            command = inner;
        }
    }
    path
}

/// A setting in force as a default of the command that is called.
struct InForce {
    id: String,
    long: String,
    values: Vec<String>,
    is_flag: bool,
}

impl Settings {
    /// Makes the settings defaults of `command`. Rewrites `line` for it: flags that it takes back are
    /// gone, and defaults that its options require are there.
    fn apply(&self, command: Command, line: &mut Vec<OsString>) -> Command {
        let path = called(&command, line);
        let off = switch_off(&command, &path, line);
        let typed = typed_in(&command, line);
        let (mut command, mut defaults) = (command, Vec::new());
        for depth in 0..=path.len() {
            let path = &path[..depth];
            command = at(command, path, &mut |inner| {
                let (inner, found) = self.with_defaults(inner, path, &typed, &off);
                defaults = found;
                inner
            });
        }
        let end = end_of_options(line);
        for default in &defaults {
            let missing = missing(&command, line);
            if missing == 0 {
                break;
            }
            let mut longer = line.clone();
            longer.splice(end..end, default.words());
            if self::missing(&command, &longer) < missing {
                *line = longer;
            }
        }
        command
    }

    /// Makes the settings defaults of the command at `path`, except for options that are `typed` or
    /// `off` and those that conflict with what is typed or with a default of higher precedence.
    fn with_defaults(
        &self,
        command: Command,
        path: &[String],
        typed: &BTreeSet<String>,
        off: &BTreeSet<String>,
    ) -> (Command, Vec<InForce>) {
        let mut found: Vec<_> = command
            .get_arguments()
            .filter(|arg| ![typed, off].iter().any(|ids| ids.contains(arg.get_id().as_str())))
            .filter_map(|arg| self.find(path, arg).map(|(setting, values)| (setting, arg, values)))
            .filter(|(_, arg, values)| !(is_flag(arg) && values == &["false"]))
            .collect();
        found.sort_by_key(|(setting, ..)| Reverse(setting.precedence()));
        let is_typed = |arg: &&Arg| typed.contains(arg.get_id().as_str());
        let mut taken: Vec<&Arg> = command.get_arguments().filter(is_typed).collect();
        let mut defaults = Vec::new();
        for (setting, arg, values) in found {
            if !taken.iter().any(|other| conflict(&command, arg, other)) {
                taken.push(arg);
                let (id, long) = (arg.get_id().to_string(), setting.option.clone());
                defaults.push(InForce { id, long, values, is_flag: is_flag(arg) });
            }
        }
        let command = defaults.iter().fold(command, |command, default| {
            command.mut_arg(&default.id, |arg| with_default(arg, &default.values))
        });
        (command, defaults)
    }
}

impl InForce {
    /// Returns the words that set it on the command line.
    fn words(&self) -> Vec<OsString> {
        match self.is_flag {
            true => vec![format!("--{}", self.long).into()],
            false => {
                self.values.iter().map(|value| format!("--{}={value}", self.long).into()).collect()
            }
        }
    }
}

/// The number of words of a line in front of `--`, behind which nothing is an option.
fn end_of_options(line: &[OsString]) -> usize {
    line.iter().position(|word| word == "--").unwrap_or(line.len())
}

/// Replaces `--flag=true` by `--flag` and removes `--flag=false` from a line, so that it can turn off
/// a flag that a setting turns on. Returns the ids of the flags that it turns off.
fn switch_off(command: &Command, path: &[String], line: &mut Vec<OsString>) -> BTreeSet<String> {
    let called = path.iter().try_fold(command, |command, name| command.find_subcommand(name));
    let flags = called.into_iter().flat_map(Command::get_arguments).filter(|arg| is_flag(arg));
    let mut off = BTreeSet::new();
    for (arg, long) in flags.filter_map(|arg| Some((arg, arg.get_long()?))) {
        let mut index = 0;
        while index < end_of_options(line) {
            if *line[index] == *format!("--{long}=false") {
                line.remove(index);
                off.insert(arg.get_id().to_string());
                continue;
            }
            if *line[index] == *format!("--{long}=true") {
                line[index] = format!("--{long}").into();
            }
            index += 1;
        }
    }
    off
}

/// Changes the command at `path`.
fn at(command: Command, path: &[String], change: &mut dyn FnMut(Command) -> Command) -> Command {
    match path.split_first() {
        Some((name, rest)) => command.mut_subcommand(name, |inner| at(inner, rest, change)),
        None => change(command),
    }
}

/// Returns true if clap refuses these two options of a command together.
fn conflict(command: &Command, one: &Arg, other: &Arg) -> bool {
    let excludes = |one, other| command.get_arg_conflicts_with(one).contains(&other);
    excludes(one, other)
        || excludes(other, one)
        || command.get_groups().any(|group| {
            let members: Vec<_> = group.get_args().collect();
            let both = [one, other].iter().all(|arg| members.contains(&arg.get_id()));
            both && !group.clone().is_multiple()
        })
}

fn with_default(arg: Arg, values: &[String]) -> Arg {
    // Removes a text about the default that no longer holds.
    let help = arg.get_help().map(ToString::to_string);
    let arg = match help.as_deref().and_then(|help| help.split_once("[default:")) {
        Some((help, _)) => arg.help(help.trim_end().to_owned()),
        None => arg,
    };
    let secret = arg.is_hide_env_values_set();
    arg.required(false).default_values(values.to_vec()).hide_default_value(secret)
}

/// The number of arguments that a line lacks.
fn missing(command: &Command, line: &[OsString]) -> usize {
    let Err(error) = command.clone().try_get_matches_from(line) else { return 0 };
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(all))) => all.len(),
        (ErrorKind::MissingRequiredArgument, _) => 1,
        _ => 0,
    }
}

/// The ids of the arguments that a line gives to the command that it calls, as far as it can be
/// understood.
fn typed_in(command: &Command, line: &[OsString]) -> BTreeSet<String> {
    let Ok(matches) = command.clone().ignore_errors(true).try_get_matches_from(line) else {
        return BTreeSet::new();
    };
    let mut matches = &matches;
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    typed(matches)
}

fn typed(matches: &ArgMatches) -> BTreeSet<String> {
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(|id| id.as_str().to_owned()).filter(|id| is_typed(id)).collect()
}

/// Options that know which of them were typed: a default must not do all that the option itself
/// does.
#[derive(Debug)]
pub(crate) struct Typed<A> {
    pub(crate) options: A,
    typed: BTreeSet<String>,
}

impl<A> Typed<A> {
    /// Returns true if the option of this id stands on the command line.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.typed.contains(id)
    }
}

impl<A: FromArgMatches> FromArgMatches for Typed<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { options: A::from_arg_matches(matches)?, typed: typed(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.typed = typed(matches);
        self.options.update_from_arg_matches(matches)
    }
}

impl<A: Args> Args for Typed<A> {
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use std::ffi::OsString;

    use clap::error::ErrorKind;
    use clap::{Arg, ArgMatches, Command, CommandFactory as _};

    use super::{Settings, missing};
    use crate::settings::value::{self, Value, is_flag};
    use crate::settings::{Origin, Setting, options};

    /// A command with nothing beside it, which clap parses quickly.
    fn alone(command: &Command, path: &[String]) -> Command {
        let Some((name, rest)) = path.split_first() else { return command.clone() };
        let inner = command.find_subcommand(name).map(|inner| alone(inner, rest));
        Command::new(command.get_name().to_owned()).subcommands(inner)
    }

    /// A value that the option accepts.
    fn sample(arg: &Arg) -> Option<String> {
        let texts = ["1", "true", "1b", "127.0.0.1:80", "0.5", "1,2", "tiny", "adamw", "md", "cpu"];
        let possible = arg.get_possible_values().first().map(|value| value.get_name().to_owned());
        let mut values = possible.into_iter().chain(texts.map(ToOwned::to_owned));
        values.find(|value| value::check(arg, &[Value::Untyped(value.clone())]).is_ok())
    }

    /// The number of faults of a line: as many as arguments are missing, the most for a conflict.
    fn faults(command: Command, line: &[OsString]) -> usize {
        let parsed: Result<ArgMatches, _> = command.clone().try_get_matches_from(line);
        match parsed.map_err(|error| error.kind()) {
            Ok(_) => 0,
            Err(ErrorKind::MissingRequiredArgument) => missing(&command, line),
            Err(ErrorKind::ArgumentConflict) => usize::MAX,
            Err(kind) => panic!("{line:?}: {kind}"),
        }
    }

    /// An option of a command, with a value and the words that set it.
    struct Sample {
        name: String,
        value: String,
        typed: OsString,
        /// The faults of a line with this option alone.
        faults: usize,
    }

    /// Tries every option as a default beside every option typed, of every command: nothing is wrong
    /// that was right without it, and what is right with it typed is right with it as a default.
    #[test]
    fn a_default_helps_and_never_hinders() {
        let whole = crate::Cli::command();
        let mut paths: Vec<Vec<String>> =
            options(&whole).into_iter().map(|(path, _)| path).collect();
        paths.dedup();
        let (mut excluded, mut needed) = (0, 0);
        for path in paths.into_iter().filter(|path| !path.is_empty()) {
            let command = alone(&whole, &path);
            let line = |typed: &[&OsString]| -> Vec<OsString> {
                let words = ["mlx-llamba"].into_iter().chain(path.iter().map(String::as_str));
                words.map(OsString::from).chain(typed.iter().map(|word| (*word).clone())).collect()
            };
            let mut samples = Vec::new();
            let own = options(&whole).into_iter().filter(|(of, _)| *of == path);
            // A command with a single option has no pairs, and may need a subcommand.
            let own = Some(own.collect::<Vec<_>>()).filter(|own| own.len() > 1);
            for (_, arg) in own.into_iter().flatten() {
                let (Some(name), Some(value)) = (arg.get_long(), sample(arg)) else { continue };
                let typed = match is_flag(arg) {
                    true => format!("--{name}"),
                    false => format!("--{name}={value}"),
                };
                let typed = OsString::from(typed);
                let faults = faults(command.clone(), &line(&[&typed]));
                samples.push(Sample { name: name.to_owned(), value, typed, faults });
            }
            for (index, first) in samples.iter().enumerate() {
                for second in &samples[..index] {
                    let both = faults(command.clone(), &line(&[&first.typed, &second.typed]));
                    for (default, option) in [(first, second), (second, first)] {
                        let without = option.faults;
                        if both == without {
                            continue; // They have nothing to do with each other.
                        }
                        let settings = Settings(vec![Setting {
                            scope: path.clone(),
                            option: default.name.clone(),
                            values: vec![Value::Untyped(default.value.clone())],
                            origin: Origin::Environment { variable: String::new() },
                        }]);
                        let mut line = line(&[&option.typed]);
                        let changed = settings.apply(command.clone(), &mut line);
                        let found = faults(changed, &line);
                        let (name, default) = (&option.name, &default.name);
                        let case = format!(
                            "{path:?} --{name} with --{default}: {without}, {both}, {found}"
                        );
                        assert!(found <= without, "{case}");
                        assert!(both > 0 || found == 0, "{case}");
                        excluded += usize::from(without < usize::MAX && both == usize::MAX);
                        needed += usize::from(both < without);
                    }
                }
            }
        }
        assert!(excluded > 10 && needed > 10, "{excluded} {needed}");
    }
}
