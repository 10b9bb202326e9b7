//! `mlx-llamba models`

mod list;
mod remove;

use anyhow::Result;
use clap::Subcommand;
use mlx_llamba::hub::{self, HubOptions};

use crate::output::{show, usage};
use crate::{interrupt, model};

/// List, download and remove models and tokenizers of the hub
#[derive(clap::Args)]
#[command(after_help = "\
Models and tokenizers are in the cache that all hub tools share: $HF_HUB_CACHE, or $HF_HOME/hub, or \
~/.cache/huggingface/hub.

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
    /// List the contents of the cache
    #[command(after_help = "Example:\n  mlx-llamba models list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a model, a tokenizer, or both; an interrupted download continues
    #[command(after_help = "\
Examples:
  mlx-llamba models pull cartesia-ai/Llamba-1B@main
  mlx-llamba models pull --tokenizer meta-llama/Llama-3.2-1B-Instruct")]
    Pull {
        /// Repository of the model: owner/name or owner/name@revision
        #[arg(value_name = "MODEL", required_unless_present = "tokenizer")]
        model: Option<String>,
        /// Repository of the tokenizer; only tokenizer files are downloaded from it
        #[arg(long, value_name = "REPOSITORY", hide_env = true)]
        tokenizer: Option<String>,
    },
    /// Remove a repository from the cache, or one revision of it
    #[command(after_help = "\
Files that another revision needs are kept.

Examples:
  mlx-llamba models rm cartesia-ai/Llamba-1B
  mlx-llamba models rm cartesia-ai/Llamba-1B@0f3c9 --yes")]
    Rm {
        /// owner/name, owner/name@revision or owner/name@commit; the start of a commit is enough
        #[arg(value_name = "MODEL")]
        name: String,
        /// Remove all revisions, if there are several
        #[arg(long)]
        all: bool,
        /// Remove without asking
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
            usage!("{name} is not a repository; expected owner/name or owner/name@revision");
        }
        if std::path::Path::new(name).exists() {
            usage!("{name} is a local file or directory; give its path to --model");
        }
    }
    let options = model::hub(false)?;
    // Downloaded parts are kept; the next attempt continues from there.
    interrupt::on_first(|| interrupt::end(crate::INTERRUPTED))?;
    if let Some(model) = model {
        show(&format!("{}\n", hub::resolve(model, &options)?.display()))?;
    }
    if let Some(tokenizer) = tokenizer {
        show(&format!("{}\n", hub::resolve_tokenizer(tokenizer, &options)?.display()))?;
    }
    Ok(())
}
