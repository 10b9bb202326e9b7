//! `mlx-llamba train`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use mlx_llamba::Compute;
use mlx_llamba_mohawk::recipe::Recipe;
use mlx_llamba_mohawk::run::{Job, Kind, Task, run};

use crate::model::DeviceArg;
use crate::training::{self, Display, RecipeArgs};

/// Train a small model from scratch, such as a teacher to try `distill` with
#[derive(clap::Args)]
// In lines that fit a terminal.
#[command(override_usage = "\
mlx-llamba train [OPTIONS] --arch <ARCH> --data <PATH>
           --tokenizer <PATH> --output <DIR>")]
#[command(after_help = "\
A Llama is written in Hugging Face's layout, a Llamba in its published layout.

Example:
  mlx-llamba train --arch llama --config tiny-teacher --data stories.jsonl \\
      --tokenizer ./tokenizer.json --output ./llama")]
pub(crate) struct Args {
    /// Architecture of the model
    #[arg(short = 'm', long, visible_alias = "model", value_enum)]
    arch: Arch,
    /// Text to train on: a .jsonl or text file, or a directory of them; may be given more than once
    /// (data.weights in the recipe is their ratio)
    #[arg(long, value_name = "PATH", required = true, hide_env = true)]
    data: Vec<PathBuf>,
    /// A tokenizer.json, or a directory with one
    #[arg(long, value_name = "PATH", hide_env = true)]
    tokenizer: PathBuf,
    /// Directory for the run and the model
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Device to compute on
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum Arch {
    /// A Transformer
    Llama,
    /// A recurrent model
    Llamba,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let (origin, text) = self.recipe.read("tiny-teacher")?;
        let mut changes: Vec<String> =
            self.recipe.stage_changes(["training"].into_iter()).collect();
        changes.extend(self.recipe.tokens.map(|tokens| format!("training.tokens={tokens}")));
        changes.extend(self.recipe.set.iter().cloned());
        let recipe = Recipe::parse_training(&origin, &text, &changes)?;
        let memory = training::memory(Compute::from(self.device).select()?);
        let kind = match self.arch {
            Arch::Llama => Kind::Llama,
            Arch::Llamba => Kind::Llamba,
        };
        let task = Task::Train { kind, tokenizer: self.tokenizer };
        let mut job = Job::new(task, self.data, self.output, recipe).resume(self.recipe.resume);
        job.overwrite = self.recipe.overwrite;
        (job.cache, job.memory) = (self.recipe.cache, memory);
        Display::follow("model", &job.output, |tell| run(&job, tell))
    }
}
