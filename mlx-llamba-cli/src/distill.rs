//! `mlx-llamba distill`

use std::path::PathBuf;

use anyhow::Result;
use mlx_llamba::Compute;
use mlx_llamba_mohawk::recipe::{RECIPES, Recipe, StageName, builtin};
use mlx_llamba_mohawk::run::{Job, Task, run};

use crate::model::DeviceArg;
use crate::output::{show, usage};
use crate::training::{self, Display};

/// Turn a Llama Transformer into a Llamba recurrent model (MOHAWK)
#[derive(clap::Args)]
#[command(after_help = "\
The output is a directory with the student (config.json, model.safetensors, the tokenizer), \
log.jsonl, training.svg and the last checkpoints of the run. A run that was stopped in any way \
continues with --resume and ends with the same student, bit for bit.

Examples:
  mlx-llamba distill --teacher ./llama --data stories.jsonl --output ./student
  mlx-llamba distill --print-recipe tiny > my.toml
  mlx-llamba distill --teacher smollm2.gguf --data texts/ --config my.toml \\
      --stage 2+3 --set distillation.lr=1e-4 --output ./student")]
pub(crate) struct Args {
    /// The Llama: a directory in Hugging Face's layout, or a GGUF file
    #[arg(
        short = 'm',
        long,
        visible_alias = "model",
        value_name = "PATH",
        required_unless_present = "print_recipe"
    )]
    teacher: Option<PathBuf>,
    /// Text to train on: a .jsonl or text file, or a directory of them; may be given more than once
    /// (data.weights in the recipe is their ratio)
    #[arg(long, value_name = "PATH", required_unless_present = "print_recipe", hide_env = true)]
    data: Vec<PathBuf>,
    /// Directory for the run and the student
    #[arg(short, long, value_name = "DIR", required_unless_present = "print_recipe")]
    output: Option<PathBuf>,
    #[command(flatten)]
    recipe: training::RecipeArgs,
    /// Stages to run: all, 1 (orientation), 2 (alignment), 3 (distillation), or some, such as 2+3;
    /// each has its own budget unless --tokens is given [default: those of the recipe]
    #[arg(long, value_name = "STAGES", value_parser = StageName::parse_list)]
    // clap would make a plain Vec an option that may be given more than once.
    stage: Option<std::vec::Vec<StageName>>,
    /// State dimension of the student [default: the recipe's, or the width of the teacher's heads]
    #[arg(long, value_name = "N")]
    state: Option<usize>,
    /// Initialize C, B, x and out_proj from the teacher's Q, K, V and O
    #[arg(long, value_name = "BOOL")]
    copy_qkvo: Option<bool>,
    /// Start from this student, a Llamba of the same sizes
    #[arg(long, value_name = "DIR")]
    student: Option<PathBuf>,
    /// Tokenizer [default: the teacher's own]
    #[arg(long, value_name = "PATH", hide_env = true)]
    tokenizer: Option<PathBuf>,
    /// Device to compute on
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
    /// Print a built-in recipe, as a starting point for your own, and exit
    #[arg(long, value_name = "NAME")]
    print_recipe: Option<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if let Some(name) = &self.print_recipe {
            return show(builtin(name)?);
        }
        let recipe = self.recipe()?;
        let (Some(teacher), Some(output)) = (self.teacher, self.output) else {
            usage!("--teacher, --data and --output are required");
        };
        let memory = training::memory(Compute::from(self.device).select()?);
        let task = Task::Distill { teacher, tokenizer: self.tokenizer, student: self.student };
        let mut job = Job::new(task, self.data, output, recipe).resume(self.recipe.resume);
        job.overwrite = self.recipe.overwrite;
        (job.cache, job.memory) = (self.recipe.cache, memory);
        Display::follow("student", &job.output, |tell| run(&job, tell))
    }

    fn recipe(&self) -> Result<Recipe> {
        let (origin, text) = self.recipe.read(RECIPES[0].0)?;
        let names: Vec<&str> = StageName::MOHAWK.map(StageName::name).to_vec();
        let mut changes = Vec::new();
        let sections = names.iter().filter(|name| text.contains(&format!("[{name}]")));
        changes.extend(self.recipe.stage_changes(sections.copied()));
        changes.extend(self.state.map(|state| format!("student.state={state}")));
        changes.extend(self.copy_qkvo.map(|copy| format!("student.copy_qkvo={copy}")));
        changes.extend(self.recipe.set.iter().cloned());
        let recipe = Recipe::parse(&origin, &text, &changes)?;
        let stages = match &self.stage {
            Some(stages) => stages.clone(),
            None => recipe.stages().map(|(name, _)| name).collect(),
        };
        Ok(recipe.only(&stages, self.recipe.tokens)?)
    }
}
