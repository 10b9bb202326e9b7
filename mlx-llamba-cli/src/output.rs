//! Standard output that may close early.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use mlx_llamba::Error;

/// Writes and flushes: people read while the model writes.
pub(crate) fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write standard output")
}

/// Refuses a file that cannot be written because its directory is none: before the work is done
/// for nothing.
pub(crate) fn check_parent(file: &Path) -> Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        bail!("cannot write {}: {} is no directory", file.display(), directory.display());
    }
    if file.is_dir() {
        bail!("cannot write {}: it is a directory", file.display());
    }
    Ok(())
}

/// True if the error comes from a reader that went away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}

/// The error and its causes on one line, each said once: some errors repeat their cause.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    // Training and teachers pass the library's errors on.
    let passed = || match error.downcast_ref() {
        Some(mlx_llamba_mohawk::Error::Llamba(found)) => Some(found),
        _ => match error.downcast_ref() {
            Some(mlx_llamba_teacher::Error::Llamba(found)) => Some(found),
            _ => None,
        },
    };
    let option = error.downcast_ref().or_else(passed);
    let mut text = match (option, error.downcast_ref()) {
        (Some(Error::Option { option, value, expected }), _) => {
            format!("{}: expected {expected}", argument(option, value))
        }
        (_, Some(Error::OutputExists { .. })) => {
            format!("{error} (--overwrite replaces a model)")
        }
        (_, Some(Error::AlreadyQuantized { .. })) => format!("{error} (--requantize)"),
        _ => error.to_string(),
    };
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// A line from elsewhere without terminal codes.
pub(crate) fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The system's own words, without the temporary name that tempfile adds: nobody asked for that.
pub(crate) fn plain(error: std::io::Error) -> std::io::Error {
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => std::io::Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

/// An option of the library, as it is given to the command.
fn argument(option: &str, value: &str) -> String {
    match option {
        "quantization" | "revision" | "vocab_size" => format!("{option} = {value}"),
        // Environment variables.
        _ if option.starts_with(char::is_uppercase) => format!("{option} = {value}"),
        _ => format!("--{} {value}", option.replace('_', "-")),
    }
}

/// A text of several lines without terminal codes.
pub(crate) fn printable_text(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}
