//! `mlx-llamba session`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use mlx_llamba::files::FloatTensor;
use mlx_llamba::session::SessionInfo;
use mlx_llamba::units;

use crate::output::{printable_text, show};
use crate::places;

/// List, inspect, compare and remove saved sessions
#[derive(clap::Args)]
#[command(after_help = "\
A session is given by the name under which it was saved, or by its file. Names refer to files in \
mlx-llamba/sessions in the system's directory for data, or in $MLX_LLAMBA_DATA/sessions.

Examples:
  mlx-llamba session list
  mlx-llamba session inspect rivers
  mlx-llamba session diff rivers ./other.session")]
pub(crate) struct Args {
    /// Directory of the sessions
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the saved sessions
    #[command(after_help = "\
Examples:
  mlx-llamba session list
  mlx-llamba session list --model cartesia-ai/Llamba-1B-4bit-mlx --json")]
    List {
        /// Only sessions of this model
        #[arg(short, long)]
        model: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the contents of a session, and check its file for damage
    #[command(after_help = "Example:\n  mlx-llamba session inspect rivers")]
    Inspect {
        /// Name or file of the session
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where two sessions diverge, and the distance between their states
    #[command(after_help = "Example:\n  mlx-llamba session diff rivers lakes")]
    Diff {
        /// Name or file of a session
        first: String,
        /// Name or file of another session
        second: String,
    },
    /// Remove sessions
    #[command(after_help = "Example:\n  mlx-llamba session rm rivers lakes")]
    Rm {
        /// Names or files of the sessions
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let find = |name: &str| places::session(name, self.directory.as_deref());
        match &self.command {
            Command::List { model, json } => {
                let directory = match &self.directory {
                    Some(directory) => directory.clone(),
                    None => places::sessions()?,
                };
                list(&directory, self.directory.is_some(), model.as_deref(), *json)
            }
            Command::Inspect { name, json } => inspect(&find(name)?, *json),
            Command::Diff { first, second } => diff(&find(first)?, &find(second)?),
            Command::Rm { names } => {
                // All are checked before one is removed.
                let files = names.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
                for file in &files {
                    SessionInfo::load(file)?;
                }
                for file in &files {
                    std::fs::remove_file(file)
                        .with_context(|| format!("cannot remove {}", file.display()))?;
                }
                Ok(())
            }
        }
    }
}

/// Lists the sessions of a directory. A file that is not a session is a warning, not an error, so
/// that the others can be listed.
fn list(directory: &Path, must_exist: bool, model: Option<&str>, json: bool) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !must_exist => {
            return if json { show("[]\n") } else { Ok(()) };
        }
        found => found.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    let files: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files.with_context(|| format!("cannot list {}", directory.display()))?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == places::EXTENSION));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        match SessionInfo::load(&file) {
            Ok(info) => all.push(info),
            Err(error) => log::warn!("{error}"),
        }
    }
    all.retain(|info| model.is_none_or(|model| info.source == model));
    if json {
        return show(&format!("{:#}\n", serde_json::to_value(&all)?));
    }
    for info in &all {
        let name = info.path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into());
        let last = info.messages.last().map_or(String::new(), |message| one_line(&message.content));
        show(&format!(
            "{name}: {}, {}, {}, {} | {last}\n",
            count(info.messages.len(), "message"),
            count(info.tokens.len(), "token"),
            units::bytes(info.bytes),
            source(info),
        ))?;
    }
    Ok(())
}

fn inspect(file: &Path, json: bool) -> Result<()> {
    let info = SessionInfo::load(file)?;
    info.state()?;
    if json {
        return show(&format!("{:#}\n", serde_json::to_value(&info)?));
    }
    show(&format!(
        "{}: {}\nmodel: {} ({:.12})\ntokenizer: {:.12}\ntokens: {}\nstates after: {:?}\n",
        file.display(),
        units::bytes(info.bytes),
        source(&info),
        info.model,
        info.tokenizer,
        info.tokens.len(),
        info.states,
    ))?;
    for (number, (message, tokens)) in info.messages.iter().zip(&info.message_tokens).enumerate() {
        let role = message.role.escape_debug();
        show(&format!(
            "#{number} {role} ({}): {}\n",
            count(*tokens, "token"),
            printable_text(&message.content)
        ))?;
    }
    Ok(())
}

fn diff(first: &Path, second: &Path) -> Result<()> {
    let [one, two] = [SessionInfo::load(first)?, SessionInfo::load(second)?];
    let states = [one.state()?, two.state()?];
    for (what, a, b) in
        [("model", &one.model, &two.model), ("tokenizer", &one.tokenizer, &two.tokenizer)]
    {
        if a != b {
            show(&format!("{what}: {a:.12} and {b:.12}\n"))?;
        }
    }
    let common = |a: &mut dyn Iterator<Item = bool>| a.take_while(|same| *same).count();
    let messages = common(&mut one.messages.iter().zip(&two.messages).map(|(a, b)| a == b));
    let tokens = common(&mut one.tokens.iter().zip(&two.tokens).map(|(a, b)| a == b));
    show(&format!(
        "in common: {}, {}; then {} and {}, {} and {}\n",
        count(messages, "message"),
        count(tokens, "token"),
        one.messages.len() - messages,
        count(two.messages.len() - messages, "message"),
        one.tokens.len() - tokens,
        count(two.tokens.len() - tokens, "token"),
    ))?;
    for (sign, info) in [('-', &one), ('+', &two)] {
        for (number, message) in info.messages.iter().enumerate().skip(messages) {
            let role = message.role.escape_debug();
            show(&format!("{sign} #{number} {role}: {}\n", printable_text(&message.content)))?;
        }
    }
    if one.model == two.model {
        let distance = distance(&states[0], &states[1]);
        show(&format!("states: relative distance {distance:.3e}\n"))?;
    }
    Ok(())
}

/// Computes |a - b| / |a|, in the Euclidean norm over all layers.
fn distance(a: &[FloatTensor], b: &[FloatTensor]) -> f64 {
    let values = |state: &[FloatTensor]| -> Vec<f64> {
        state.iter().flat_map(|tensor| tensor.values.iter().map(|v| f64::from(*v))).collect()
    };
    let (a, b) = (values(a), values(b));
    let norm: f64 = a.iter().map(|v| v * v).sum();
    let apart: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    if apart == 0.0 { 0.0 } else { (apart / norm).sqrt() }
}

fn source(info: &SessionInfo) -> String {
    if info.source.is_empty() { "a model".to_owned() } else { printable_text(&info.source) }
}

fn one_line(text: &str) -> String {
    const SHOWN: usize = 60;
    let line: String = printable_text(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn count(number: usize, unit: &str) -> String {
    units::count(number as u64, unit)
}
