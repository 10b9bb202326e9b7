//! `mlx-llamba models`

mod list;
mod remove;

use anyhow::{Result, bail};
use clap::Subcommand;
use mlx_llamba::hub::{self, HubOptions};

use crate::output::show;
use crate::{interrupt, model};

/// Look at, fetch and remove what came from the hub
#[derive(clap::Args)]
#[command(after_help = "\
Models and tokenizers are in the cache that all hub tools share: $HF_HUB_CACHE, or hub in $HF_HOME,
or ~/.cache/huggingface/hub.

Examples:
  mlx-llamba models list
  mlx-llamba models pull cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct
  mlx-llamba models rm cartesia-ai/Llamba-1B-4bit-mlx")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List what the cache holds
    #[command(after_help = "Example:\n  mlx-llamba models list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model, a tokenizer, or both; what an earlier attempt fetched is not fetched again
    #[command(after_help = "\
Examples:
  mlx-llamba models pull cartesia-ai/Llamba-1B@main
  mlx-llamba models pull --tokenizer meta-llama/Llama-3.2-1B-Instruct")]
    Pull {
        /// Repository of a model: owner/name or owner/name@revision
        #[arg(value_name = "MODEL", required_unless_present = "tokenizer")]
        model: Option<String>,
        /// Repository of a tokenizer; of it only the tokenizer's files are fetched
        #[arg(long, value_name = "REPOSITORY", hide_env = true)]
        tokenizer: Option<String>,
    },
    /// Remove a repository from the cache, or one revision of it
    #[command(after_help = "\
Files that another revision needs stay.

Examples:
  mlx-llamba models rm cartesia-ai/Llamba-1B
  mlx-llamba models rm cartesia-ai/Llamba-1B@0f3c9 --yes")]
    Rm {
        /// owner/name, owner/name@revision or owner/name@commit; a commit's beginning is enough
        #[arg(value_name = "MODEL")]
        name: String,
        /// All revisions, if there are several
        #[arg(long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::List { json } => list::list(&HubOptions::from_env()?.cache, json),
            Command::Pull { model, tokenizer } => pull(model.as_deref(), tokenizer.as_deref()),
            Command::Rm { name, all, yes } => remove::remove(&name, all, yes),
        }
    }
}

fn pull(model: Option<&str>, tokenizer: Option<&str>) -> Result<()> {
    for name in [model, tokenizer].into_iter().flatten() {
        if hub::repository(name).is_none() {
            bail!("{name} is no repository's name, which is owner/name or owner/name@revision");
        }
        if std::path::Path::new(name).exists() {
            bail!("{name} is here already, as a file or directory: give its path to --model");
        }
    }
    let options = model::hub(false)?;
    // What has arrived is kept, and is where the next attempt begins.
    interrupt::on_first(|| interrupt::end())?;
    if let Some(model) = model {
        show(&format!("{}\n", hub::resolve(model, &options)?.display()))?;
    }
    if let Some(tokenizer) = tokenizer {
        show(&format!("{}\n", hub::resolve_tokenizer(tokenizer, &options)?.display()))?;
    }
    Ok(())
}
