//! Settings as defaults of clap's definition of the options.

use clap::{Arg, ArgAction, Command, value_parser};

use super::choose::Choice;
use super::{Settings, check};

/// What becomes of an option, given the values of its setting and the path of its command.
type Change<'a> = dyn Fn(Arg, &[String], &[String]) -> Arg + 'a;

impl Settings {
    /// The command with these defaults; of those for the command that is called, the chosen ones.
    pub(super) fn apply(&self, command: Command, choice: &Choice) -> Command {
        self.change(command, &mut Vec::new(), &|arg, values, path| {
            match choice.has(path, &arg) {
                true => with_default(arg, values),
                // The command line may take back what it says is not there anyway.
                false if check::is_flag(&arg) => {
                    can_be_taken_back(arg, values).default_value("false")
                }
                false => arg,
            }
        })
    }

    /// The command without these defaults, but with all that the command line may say where they
    /// are.
    pub(super) fn open(&self, command: Command) -> Command {
        self.change(command, &mut Vec::new(), &|arg, values, _| can_be_taken_back(arg, values))
    }

    /// Changes every option that has a setting.
    fn change(&self, mut command: Command, path: &mut Vec<String>, change: &Change) -> Command {
        let found = |arg: &Arg| Some((arg.get_id().clone(), self.find(path, arg)?.1));
        let found: Vec<_> = command.get_arguments().filter_map(found).collect();
        for (id, values) in found {
            command = command.mut_arg(id, |arg| change(arg, &values, path));
        }
        let names: Vec<String> =
            command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
        for name in names {
            path.push(name.clone());
            command = command.mut_subcommand(name, |inner| self.change(inner, path, change));
            path.pop();
        }
        command
    }
}

/// A flag that is set by default takes a value, so that the command line can take it back.
fn can_be_taken_back(arg: Arg, values: &[String]) -> Arg {
    if !check::is_flag(&arg) || values == ["false"] {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(value_parser!(bool))
        .value_name("BOOL")
}

fn with_default(arg: Arg, values: &[String]) -> Arg {
    if check::is_flag(&arg) && values == ["false"] {
        return arg;
    }
    let arg = can_be_taken_back(arg, values);
    // A text about the default that no longer holds.
    let help = arg.get_help().map(ToString::to_string);
    let arg = match help.as_deref().and_then(|help| help.split_once("[default:")) {
        Some((help, _)) => arg.help(help.trim_end().to_owned()),
        None => arg,
    };
    let secret = arg.is_hide_env_values_set();
    arg.required(false).default_values(values.to_vec()).hide_default_value(secret)
}
