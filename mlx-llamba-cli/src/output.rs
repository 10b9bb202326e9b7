//! Standard output that may close early.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mlx_llamba::Error;

use crate::interrupt;

/// Writes to standard output and flushes, so that text appears while the model writes.
pub(crate) fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written =
        interrupt::while_writing(|| out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    written.context("cannot write standard output")
}

/// Checks that the directory of an output file exists, before a long computation.
pub(crate) fn check_parent(file: &Path) -> Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        bail!("cannot write {}: {} is not a directory", file.display(), directory.display());
    }
    if file.is_dir() {
        bail!("cannot write {}: it is a directory", file.display());
    }
    Ok(())
}

/// Returns true if the error comes from a closed pipe.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}

/// An argument that cannot be honored, whatever the files and the machine.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Ends a function with a [`Usage`] error.
macro_rules! usage {
    ($($text:tt)*) => {
        return Err(anyhow::Error::new($crate::output::Usage(format!($($text)*))))
    };
}
pub(crate) use usage;

/// Returns true for errors that other arguments mend.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    let option = |error: &Error| match error {
        // These depend on the cache, the machine and the models.
        Error::Argument { name, .. } => !matches!(*name, "revision" | "device" | "vocab_size"),
        _ => false,
    };
    error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.downcast_ref().is_some_and(option)
            || matches!(cause.downcast_ref(), Some(mlx_llamba_mohawk::Error::Llamba(e)) if option(e))
            || matches!(cause.downcast_ref(), Some(mlx_llamba_teacher::Error::Llamba(e)) if option(e))
            || matches!(cause.downcast_ref(), Some(mlx_llamba_engine::Error::Option { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(
                    mlx_llamba_server::Error::Option { .. }
                        | mlx_llamba_server::Error::Engine(mlx_llamba_engine::Error::Option { .. })
                )
            )
    })
}

/// Formats an error and its causes on one line. Some errors repeat their cause, which is printed
/// once.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    // Training and teachers pass on errors of the library.
    let passed = || match error.downcast_ref() {
        Some(mlx_llamba_mohawk::Error::Llamba(found)) => Some(found),
        _ => match error.downcast_ref() {
            Some(mlx_llamba_teacher::Error::Llamba(found)) => Some(found),
            _ => None,
        },
    };
    let mut text = match error.downcast_ref().or_else(passed) {
        Some(Error::Argument { name: option, value, expected }) => {
            format!("{}: expected {expected}", argument(option, value))
        }
        Some(Error::OutputExists { .. }) => format!("{error} (--overwrite replaces it)"),
        Some(Error::AlreadyQuantized { .. }) => format!("{error} (--requantize)"),
        _ => error.to_string(),
    };
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Replaces control characters in a line from an untrusted source.
pub(crate) fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Removes the temporary name that tempfile adds to the system's error message.
pub(crate) fn plain(error: std::io::Error) -> std::io::Error {
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => std::io::Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

/// Formats an option of the library as the command's option.
fn argument(option: &str, value: &str) -> String {
    match option {
        "quantization" | "revision" | "vocab_size" => format!("{option} = {value}"),
        // Environment variables.
        _ if option.starts_with(char::is_uppercase) => format!("{option} = {value}"),
        _ => format!("--{} {value}", option.replace('_', "-")),
    }
}

/// Replaces control characters in a text, except for line breaks and tabs.
pub(crate) fn printable_text(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}
