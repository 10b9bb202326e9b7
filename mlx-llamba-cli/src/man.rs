//! `mlx-llamba man`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::output::{show, usage};

/// Print a manual page, or write all of them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mlx-llamba man | man -l -
  mlx-llamba man session list
  mlx-llamba man --output ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// The command whose page to print, such as generate or session list [default: mlx-llamba]
    #[arg(value_name = "COMMAND", conflicts_with = "output")]
    path: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut command = crate::Cli::command().disable_help_subcommand(true);
        command.build();
        let Some(directory) = &self.output else {
            let mut at = &command;
            for name in &self.path {
                at = match at.find_subcommand(name) {
                    Some(inner) => inner,
                    None => {
                        usage!("{} is not a command; see mlx-llamba --help", self.path.join(" "))
                    }
                };
            }
            return show(&page(at)?);
        };
        let place = directory.display();
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {place}"))?;
        let mut commands = vec![&command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            let file = directory.join(Man::new(command.clone()).get_filename());
            let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut partial| {
                std::io::Write::write_all(&mut partial, page(command)?.as_bytes())?;
                readable(partial.as_file())?;
                Ok(partial.persist(&file)?)
            });
            written
                .map_err(crate::output::plain)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

/// Lets everybody read a page; temporary files are private.
fn readable(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

/// Renders a page in roff.
fn page(command: &Command) -> std::io::Result<String> {
    let man = Man::new(command.clone()).manual("mlx-llamba");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    page += &extra(&after);
    page += ".SH \"EXIT STATUS\"\n";
    for (status, meaning) in crate::EXIT_STATUS {
        page += &format!(".TP\n\\fB{status}\\fR\n{}\n", escape(meaning));
    }
    page += ".SH \"SEE ALSO\"\n\\fBmlx\\-llamba\\fR(1), \\fBmlx\\-llamba\\-config\\fR(1) (defaults from a \
             file and the environment)\n";
    Ok(page)
}

/// Renders the text after the options: prose, then examples line by line.
fn extra(after: &str) -> String {
    let (mut notes, mut examples) = (String::new(), String::new());
    let mut in_examples = false;
    for line in after.lines() {
        match line {
            "Example:" | "Examples:" => in_examples = true,
            // This has a section of its own.
            "Exit status:" => break,
            _ if in_examples => examples += &format!("{}\n", escape(line)),
            "" => notes += ".PP\n",
            // Indented lines are kept as they are.
            _ if line.starts_with(' ') => notes += &format!(".nf\n{}\n.fi\n", escape(line)),
            _ => notes += &format!("{}\n", escape(line)),
        }
    }
    let mut text = String::new();
    if !notes.replace(".PP", "").trim().is_empty() {
        text += &format!(".SH NOTES\n{notes}");
    }
    if !examples.trim().is_empty() {
        text += &format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", examples.trim_end());
    }
    text
}

/// Escapes a line of text for roff.
fn escape(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}
