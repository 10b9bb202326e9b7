//! `mlx-llamba convert`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use mlx_llamba::checkpoint::Layout;
use mlx_llamba::convert::{Conversion, convert_with};

use crate::model::{DtypeArg, SourceArgs};
use crate::output::show;
use crate::rewrite;

/// Convert a model to another layout
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mlx-llamba convert --model cartesia-ai/Llamba-1B-4bit-mlx --to mlx \\
      --output llamba-1b-4bit
  mlx-llamba convert --model ./llamba-1b-4bit --to pytorch --output dense")]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Layout to write
    #[arg(long, value_enum)]
    to: LayoutArg,
    /// Dtype of the dense tensors [default: as stored]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Directory to write
    #[arg(short, long)]
    output: PathBuf,
    /// Replace the output if it is a model
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutArg {
    /// config.json and safetensors; quantized weights stay as they are
    #[value(alias("mlx-llamba"), alias("c"))]
    Mlx,
    /// The published PyTorch layout; quantized weights become dense
    #[value(alias("hf"), alias("a"))]
    Pytorch,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let layout = match self.to {
            LayoutArg::Mlx => Layout::MlxLlamba,
            LayoutArg::Pytorch => Layout::PyTorch,
        };
        let mut conversion = Conversion::to(layout).overwrite(self.overwrite);
        conversion.dtype = self.dtype.map(Into::into);
        let checkpoint = self.source.builder().checkpoint()?;
        let path = rewrite::watched("converting", |on_progress| {
            convert_with(&checkpoint, &self.output, &conversion, on_progress)
        })?;
        show(&format!("{} from {} to {}\n", path.display(), checkpoint.layout(), conversion.to))
    }
}
