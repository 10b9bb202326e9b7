//! Settings as defaults of clap's definition of the options.

use clap::{Arg, ArgAction, Command, Id, value_parser};

use super::explicit::Said;
use super::{Settings, check};

impl Settings {
    /// The command with these defaults. One gives way to what the command line says if that
    /// excludes it.
    pub(super) fn apply(&self, command: Command, said: &Said) -> Command {
        self.apply_at(command, &mut Vec::new(), said)
    }

    fn apply_at(&self, mut command: Command, path: &mut Vec<String>, said: &Said) -> Command {
        let mut defaults = Vec::new();
        for arg in command.get_arguments() {
            let Some((_, values)) = self.find(path, arg) else { continue };
            if said.path != *path || !excluded(&command, arg, said) {
                defaults.push((arg.get_id().clone(), values));
            }
        }
        for (id, values) in defaults {
            command = command.mut_arg(id, |arg| with_default(arg, &values));
        }
        let names: Vec<String> =
            command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
        for name in names {
            path.push(name.clone());
            command = command.mut_subcommand(name, |inner| self.apply_at(inner, path, said));
            path.pop();
        }
        command
    }
}

/// Whether the command line has something that the option cannot stand beside.
fn excluded(command: &Command, arg: &Arg, said: &Said) -> bool {
    let conflicts = |arg: &Arg| -> Vec<Id> {
        if arg.is_global_set() {
            return Vec::new();
        }
        command
            .get_arg_conflicts_with(arg)
            .into_iter()
            .map(|other| other.get_id().clone())
            .collect()
    };
    let own = conflicts(arg);
    command.get_arguments().any(|other| {
        said.arguments.contains(other.get_id().as_str())
            && (own.contains(other.get_id()) || conflicts(other).contains(arg.get_id()))
    })
}

fn with_default(arg: Arg, values: &[String]) -> Arg {
    let arg = if check::is_flag(&arg) {
        if values == ["false"] {
            return arg;
        }
        // So that the command line can take it back.
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(value_parser!(bool))
            .value_name("BOOL")
    } else {
        arg
    };
    // A text about the default that no longer holds.
    let help = arg.get_help().map(ToString::to_string);
    let arg = match help.as_deref().and_then(|help| help.split_once("[default:")) {
        Some((help, _)) => arg.help(help.trim_end().to_owned()),
        None => arg,
    };
    let secret = arg.is_hide_env_values_set();
    arg.required(false).default_values(values.to_vec()).hide_default_value(secret)
}
