//! Which settings are in force beside what the command line says.
//!
//! A default must never stand in the way, and must do what it would do if it were typed. clap knows
//! which options exclude and need each other, and tells by trying: a setting is chosen if the
//! command line with it is as right as without it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

use super::explicit::Said;
use super::{Origin, Settings, check};

/// The settings in force of the command that is called; all of any other.
pub(super) struct Choice {
    path: Vec<String>,
    /// `None` for all of them.
    chosen: Option<BTreeSet<String>>,
    /// With them, nothing is missing.
    complete: bool,
}

impl Choice {
    pub(super) fn has(&self, path: &[String], arg: &Arg) -> bool {
        match &self.chosen {
            Some(chosen) if path == self.path => chosen.contains(arg.get_id().as_str()),
            _ => true,
        }
    }

    /// Reads the command line by a command with these defaults. clap does not count a default as
    /// what another option needs; here it counts.
    pub(super) fn read(
        &self,
        command: Command,
        arguments: &[OsString],
    ) -> Result<ArgMatches, clap::Error> {
        match command.clone().try_get_matches_from(arguments) {
            Err(error) if self.complete && error.kind() == ErrorKind::MissingRequiredArgument => {
                command.ignore_errors(true).try_get_matches_from(arguments)
            }
            read => read,
        }
    }
}

/// A default, and the arguments that say the same.
struct Candidate {
    id: String,
    typed: Vec<OsString>,
}

impl Settings {
    /// Chooses, for an opened command.
    pub(super) fn choose(&self, command: &Command, arguments: &[OsString]) -> Choice {
        let said = Said::glance(command.clone(), arguments);
        let candidates = self.candidates(command, &said);
        let mut choice = Choice { path: said.path, chosen: None, complete: false };
        if candidates.is_empty() {
            return choice;
        }
        let before = position(command, arguments, &choice.path);
        let wrong = |typed: &[OsString]| {
            let (head, tail) = arguments.split_at(before);
            wrong(command.clone().try_get_matches_from(head.iter().chain(typed).chain(tail)))
        };
        let (mut chosen, mut typed) = (BTreeSet::new(), Vec::new());
        // What cannot be read at all is not made better or worse by defaults.
        let Some(mut faults) = wrong(&typed) else { return choice };
        // One may be possible once another one is there.
        loop {
            let count = chosen.len();
            for candidate in &candidates {
                let with = [&typed[..], &candidate.typed].concat();
                let found = wrong(&with).unwrap_or(usize::MAX);
                if !chosen.contains(&candidate.id) && found <= faults {
                    (faults, typed) = (found, with);
                    chosen.insert(candidate.id.clone());
                }
            }
            if chosen.len() == count {
                break;
            }
        }
        choice.complete = faults == 0;
        choice.chosen = Some(chosen);
        choice
    }

    /// Defaults of what the command line does not say, those first that go before others.
    fn candidates(&self, command: &Command, said: &Said) -> Vec<Candidate> {
        let mut called = command;
        for name in &said.path {
            let Some(inner) = called.find_subcommand(name) else { return Vec::new() };
            called = inner;
        }
        let mut found = Vec::new();
        for arg in called.get_arguments() {
            let id = arg.get_id().as_str();
            let Some((setting, values)) = self.find(&said.path, arg) else { continue };
            let Some(name) = arg.get_long().filter(|_| !said.arguments.contains(id)) else {
                continue;
            };
            let typed = match &values[..] {
                [value] if value == "false" && check::is_flag(arg) => Vec::new(),
                values => values.iter().map(|value| format!("--{name}={value}").into()).collect(),
            };
            let rank = (matches!(setting.origin, Origin::Environment { .. }), setting.scope.len());
            found.push((rank, Candidate { id: id.to_owned(), typed }));
        }
        found.sort_by_key(|(rank, _)| Reverse(*rank));
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }
}

/// How many arguments there are up to the command's name.
fn position(command: &Command, arguments: &[OsString], path: &[String]) -> usize {
    let called = |count: &usize| Said::glance(command.clone(), &arguments[..*count]).path == path;
    (1..arguments.len()).find(called).unwrap_or(arguments.len())
}

/// How much is wrong with a command line: nothing, so many arguments missing, or too many of them.
/// `None` if it cannot be read at all.
fn wrong(read: Result<ArgMatches, clap::Error>) -> Option<usize> {
    let Err(error) = read else { return Some(0) };
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(all))) => Some(all.len()),
        (ErrorKind::MissingRequiredArgument, _) => Some(1),
        (ErrorKind::ArgumentConflict, _) => Some(usize::MAX),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsString;

    use clap::{Arg, Command, CommandFactory as _};

    use super::{Settings, wrong};
    use crate::settings::{Origin, Setting, check, each_option};

    /// A command with nothing beside it: trying is quick.
    fn alone(command: &Command, path: &[String]) -> Command {
        let Some((name, rest)) = path.split_first() else { return command.clone() };
        let inner = command.find_subcommand(name).map(|inner| alone(inner, rest));
        Command::new(command.get_name().to_owned()).subcommands(inner)
    }

    /// A value that the option takes.
    fn sample(arg: &Arg) -> Option<check::Value> {
        let texts = ["1", "true", "1b", "127.0.0.1:80", "0.5", "1,2", "tiny", "adamw", "md", "cpu"];
        let possible = arg.get_possible_values().first().map(|value| value.get_name().to_owned());
        let values = possible.into_iter().chain(texts.map(ToOwned::to_owned));
        values
            .map(check::Value::Plain)
            .find(|value| check::values(arg, std::slice::from_ref(value)).is_ok())
    }

    /// Every option as a default beside every option typed, of every command: nothing is wrong that
    /// was right without it, and what is right with it typed is right with it as a default.
    #[test]
    fn a_default_helps_and_never_hinders() {
        let whole = crate::Cli::command();
        let mut all = Vec::new();
        each_option(&whole, &mut |path, arg| {
            if let (Some(name), Some(value), false) = (arg.get_long(), sample(arg), path.is_empty())
            {
                all.push((path.to_vec(), name.to_owned(), value, check::is_flag(arg)));
            }
        });
        let typed = |name: &str, value: &check::Value, is_flag: bool| -> OsString {
            let check::Value::Plain(text) = value else { return OsString::new() };
            if is_flag { format!("--{name}").into() } else { format!("--{name}={text}").into() }
        };
        let (mut excluded, mut needed) = (0, 0);
        for (path, default, value, default_is_flag) in &all {
            let command = alone(&whole, path);
            let setting = Setting {
                scope: path.clone(),
                option: default.clone(),
                values: vec![value.clone()],
                origin: Origin::Environment { variable: String::new() },
            };
            let settings = Settings(vec![setting]);
            let opened = settings.open(command.clone());
            for (_, name, value_of, is_flag) in
                all.iter().filter(|(p, name, ..)| p == path && name != default)
            {
                let mut line: Vec<OsString> = vec!["mlx-llamba".into()];
                line.extend(path.iter().map(OsString::from));
                line.push(typed(name, value_of, *is_flag));
                let without = wrong(command.clone().try_get_matches_from(&line)).unwrap();
                let mut longer = line.clone();
                longer.push(typed(default, value, *default_is_flag));
                let both = wrong(command.clone().try_get_matches_from(&longer)).unwrap();
                if both == without {
                    continue; // They have nothing to do with each other.
                }
                let choice = settings.choose(&opened, &line);
                let read = choice.read(settings.apply(command.clone(), &choice), &line);
                let found = wrong(read).unwrap();
                let what =
                    format!("{path:?} --{name} with --{default}: {without}, {both}, {found}");
                assert!(found <= without, "{what}");
                assert!(both > 0 || found == 0, "{what}");
                excluded += usize::from(without < usize::MAX && both == usize::MAX);
                needed += usize::from(both < without);
            }
        }
        assert!(excluded > 10 && needed > 10, "{excluded} {needed}");
    }
}
