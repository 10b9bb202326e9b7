//! `mlx-llamba doctor`

pub(crate) mod kernels;
mod machine;
pub(crate) mod memory;
mod model;
mod network;
mod places;

use anyhow::{Result, bail};
use mlx_llamba::units::count;
use serde::Serialize;
use serde_json::{Value, json};

use crate::output::show;

/// Check your installation, and tell how to fix problems
#[derive(clap::Args)]
#[command(after_help = "\
The exit status is 1 if there is a problem, and 0 if there are only warnings. Nothing is sent over the \
network unless --hub is given, which also permits downloads of --model.

Examples:
  mlx-llamba doctor
  mlx-llamba doctor --hub
  mlx-llamba doctor --model ./llamba-1b-4bit --json
  mlx-llamba doctor --kernels
  mlx-llamba doctor --kernels mixer 'l=1 '")]
pub(crate) struct Args {
    /// Also check this model: its files, its tokenizer, and the memory that it needs
    #[arg(short, long, hide_env = true)]
    model: Option<String>,
    /// Also check that the hub answers and accepts the token
    #[arg(long)]
    hub: bool,
    /// Use no network, even with --hub
    #[arg(long)]
    offline: bool,
    /// Compare every kernel for this machine's GPU or CPU with its definition, and print a table of
    /// errors to report; may take minutes
    // The variable MLX_LLAMBA_KERNELS has another meaning.
    #[arg(long, hide_env = true, conflicts_with = "model")]
    kernels: bool,
    /// Only kernels whose rows contain all of these words
    #[arg(value_name = "WORD", requires = "kernels")]
    words: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// Works, but could be better.
    Warning,
    /// Something required is missing or broken.
    Problem,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    topic: &'static str,
    state: State,
    text: String,
    /// Advice on how to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// Numbers and paths for programs.
    #[serde(skip_serializing_if = "Value::is_null")]
    details: Value,
}

impl Finding {
    fn good(topic: &'static str, text: impl Into<String>) -> Self {
        Self { topic, state: State::Good, text: text.into(), help: None, details: Value::Null }
    }

    fn warning(topic: &'static str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { state: State::Warning, help: Some(help.into()), ..Self::good(topic, text) }
    }

    fn problem(topic: &'static str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { state: State::Problem, ..Self::warning(topic, text, help) }
    }

    fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.kernels {
            return kernels::table(&self.words, self.json);
        }
        let mut found = vec![Finding::good("version", env!("CARGO_PKG_VERSION"))];
        found.extend(machine::look());
        found.extend(places::look());
        found.extend(network::look(self.hub, self.offline));
        if let Some(model) = &self.model {
            found.extend(model::look(model, self.hub && !self.offline));
        }
        let problems = found.iter().filter(|finding| finding.state == State::Problem).count();
        if self.json {
            show(&format!("{:#}\n", json!({ "ok": problems == 0, "findings": found })))?;
        } else {
            for finding in &found {
                print(finding)?;
            }
        }
        match problems {
            0 => Ok(()),
            _ => bail!("{} found", count(problems as u64, "problem")),
        }
    }
}

fn print(finding: &Finding) -> Result<()> {
    let mark = match finding.state {
        State::Good => "ok  ",
        State::Warning => "warn",
        State::Problem => "FAIL",
    };
    let mut text = String::new();
    for (i, line) in finding.text.lines().enumerate() {
        let (mark, topic) = if i == 0 { (mark, finding.topic) } else { ("", "") };
        text += &format!("{mark:4}  {topic:9} {}\n", crate::output::printable(line));
    }
    if let Some(help) = &finding.help {
        text += &format!("{:16}-> {}\n", "", crate::output::printable(help));
    }
    show(&text)
}

/// Formats a number of bytes.
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
