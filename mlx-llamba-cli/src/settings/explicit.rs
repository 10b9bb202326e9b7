//! What the command line itself says, apart from every default.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::{Deref, DerefMut};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The command that a command line calls, and which of its arguments are given.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) path: Vec<String>,
    /// Of the last command.
    pub(super) arguments: BTreeSet<String>,
}

impl Said {
    /// Takes from a command line what can be understood of it; nothing if it asks for help.
    pub(super) fn glance(command: Command, arguments: &[OsString]) -> Self {
        let mut said = Self::default();
        let Ok(matches) = command.ignore_errors(true).try_get_matches_from(arguments) else {
            return said;
        };
        let mut matches = &matches;
        loop {
            said.arguments = given(matches);
            let Some((name, inner)) = matches.subcommand() else {
                return said;
            };
            said.path.push(name.to_owned());
            matches = inner;
        }
    }
}

fn given(matches: &ArgMatches) -> BTreeSet<String> {
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    matches.ids().map(|id| id.as_str().to_owned()).filter(|id| given(id)).collect()
}

/// Options that also know which of them the command line gave: a default must not do all that the
/// option itself does.
#[derive(Debug)]
pub(crate) struct Explicit<A> {
    options: A,
    given: BTreeSet<String>,
}

impl<A> Explicit<A> {
    /// Whether the option of this id stood on the command line.
    pub(crate) fn is_given(&self, id: &str) -> bool {
        self.given.contains(id)
    }
}

impl<A> Deref for Explicit<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.options
    }
}

impl<A> DerefMut for Explicit<A> {
    fn deref_mut(&mut self) -> &mut A {
        &mut self.options
    }
}

impl<A: FromArgMatches> FromArgMatches for Explicit<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let given = given(matches);
        Ok(Self { options: A::from_arg_matches_mut(matches)?, given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given = given(matches);
        self.options.update_from_arg_matches(matches)
    }
}

impl<A: Args> Args for Explicit<A> {
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}
