//! Input lines: from a terminal with editing and history, or from a pipe.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::places;

/// The size limit of a line from a pipe, in bytes.
const LONGEST: u64 = 64 << 20;

pub(super) enum Input {
    Person { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Pipe { lines: u64 },
}

pub(super) enum Line {
    Text(String),
    End,
}

impl Input {
    pub(super) fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe { lines: 0 });
        }
        let mut editor = DefaultEditor::new().context("cannot use the terminal")?;
        let history = places::data().ok().map(|data| data.join("history"));
        if let Some(history) = &history {
            // The first time there is no history.
            let _ = editor.load_history(history);
        }
        Ok(Self::Person { editor: Box::new(editor), history })
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Person { .. })
    }

    /// Returns the next line that is not blank. On a terminal, a backslash at the end of a line
    /// continues it.
    pub(super) fn next(&mut self) -> Result<Line> {
        loop {
            let line = match self {
                Self::Pipe { lines } => read_line(lines)?,
                Self::Person { editor, .. } => edit_line(editor)?,
            };
            let Some(text) = line else { return Ok(Line::End) };
            if text.trim().is_empty() {
                continue;
            }
            if let Self::Person { editor, history } = self {
                let _ = editor.add_history_entry(text.as_str());
                if let Some(file) = history {
                    // A history that cannot be written must not end the conversation.
                    let _ = file.parent().map(mlx_llamba::files::atomic::private_directory);
                    let _ = editor.save_history(file);
                }
            }
            return Ok(Line::Text(text));
        }
    }
}

fn edit_line(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut text = String::new();
    loop {
        match editor.readline(if text.is_empty() { "> " } else { "| " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(line) => text = text + line + "\n",
                None => return Ok(Some(text + &line)),
            },
            // Ctrl-C discards the line, Ctrl-D ends the conversation.
            Err(ReadlineError::Interrupted) => return Ok(Some(String::new())),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error).context("cannot read the terminal"),
        }
    }
}

fn read_line(lines: &mut u64) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().lock().take(LONGEST);
    input.read_until(b'\n', &mut bytes).context("reading standard input")?;
    *lines += 1;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() as u64 == LONGEST && !bytes.ends_with(b"\n") {
        bail!("line {lines} of standard input has more than {} MiB", LONGEST >> 20);
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => bail!("line {lines} of standard input is not UTF-8 text"),
    }
}
