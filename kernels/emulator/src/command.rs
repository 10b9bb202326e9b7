//! Calls of other programs.

use std::process::Command;

use crate::Error;

/// Returns the C++ compiler that `CXX` names, with arguments where it has some (`ccache g++`).
pub(crate) fn compiler() -> Vec<String> {
    let named = std::env::var("CXX").unwrap_or_default();
    let words: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { vec!["c++".to_owned()] } else { words }
}

/// A call of the C++ compiler.
pub(crate) fn compile() -> Command {
    let words = compiler();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Runs a tool. Its standard error is in the error.
pub(crate) fn call(command: &mut Command) -> Result<(), Error> {
    output(command).map(drop)
}

/// Runs a tool and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let tool = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(o) if o.status.success() => Ok(String::from_utf8_lossy(&o.stdout).into_owned()),
        Ok(o) => {
            let message = String::from_utf8_lossy(&o.stderr).into_owned();
            Err(Error::Tool { tool, message })
        }
        Err(e) => Err(Error::Tool { tool, message: e.to_string() }),
    }
}
