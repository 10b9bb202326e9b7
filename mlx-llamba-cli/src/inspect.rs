//! `mlx-llamba inspect`

use std::path::Path;

use anyhow::Result;
use mlx_llamba::inspect::Summary;
use mlx_llamba_teacher::{TeacherSummary, is_teacher};

use crate::model;
use crate::output::show;

/// Show a model's sizes and memory needs, without reading its weights
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mlx-llamba inspect
  mlx-llamba inspect ./llamba-1b-4bit --tensors
  mlx-llamba inspect cartesia-ai/Llamba-1B --json")]
pub(crate) struct Args {
    /// Directory, .safetensors or .gguf file, or hub repository [default: the built-in model]
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// The same, as an option as in other commands
    #[arg(
        short = 'm',
        short_alias = 'n',
        long = "model",
        value_name = "MODEL",
        conflicts_with = "model"
    )]
    named: Option<String>,
    /// Use only cached files of the hub; download nothing
    #[arg(long)]
    offline: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let model = self.model.as_deref().or(self.named.as_deref());
        let builder = model::builder(model, self.offline);
        if let Some(path) = builder.path()?.filter(|path| is_teacher(path)) {
            return self.teacher(&path);
        }
        let checkpoint = builder.checkpoint()?;
        let summary = Summary::of(&checkpoint)?;
        let tensors = || checkpoint.tensors().filter(|_| self.tensors);
        if self.json {
            let mut all = serde_json::to_value(&summary)?;
            let list = tensors().map(|(name, tensor)| {
                let file = tensor.path().file_name().unwrap_or(tensor.path().as_os_str());
                serde_json::json!({
                    "name": name, "file": file.to_string_lossy(),
                    "dtype": tensor.dtype_name(), "shape": tensor.shape(),
                })
            });
            if self.tensors {
                all["tensors"] = list.collect();
            }
            return show(&format!("{all:#}\n"));
        }
        show(&format!("{summary}\n"))?;
        for (name, tensor) in tensors() {
            show(&format!("{:>9} {:?} {name}\n", tensor.dtype_name(), tensor.shape()))?;
        }
        Ok(())
    }

    fn teacher(&self, path: &Path) -> Result<()> {
        let summary = TeacherSummary::of(path)?;
        let tensors = || summary.tensors.iter().filter(|_| self.tensors);
        if self.json {
            let mut all = serde_json::to_value(&summary)?;
            if self.tensors {
                let list = tensors().map(|(name, dtype, shape)| {
                    serde_json::json!({ "name": name, "dtype": dtype, "shape": shape })
                });
                all["tensors"] = list.collect();
            }
            return show(&format!("{all:#}\n"));
        }
        show(&format!("{summary}\n"))?;
        for (name, dtype, shape) in tensors() {
            show(&format!("{dtype:>9} {shape:?} {name}\n"))?;
        }
        Ok(())
    }
}
