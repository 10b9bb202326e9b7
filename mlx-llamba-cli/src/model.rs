//! The options that choose a model and where it runs.

use anyhow::Result;
use clap::ValueEnum;
use mlx_llamba::{Builder, Compute, Llamba};
use mlx_rs::Dtype;

use crate::progress::{Progress, Unit};

#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// Directory, .safetensors file, or hub repository (owner/name or owner/name@revision)
    /// [default: the small story-telling model inside this program]
    #[arg(short, long)]
    model: Option<String>,
    /// Tokenizer from elsewhere: a tokenizer.json, a directory, or a hub repository
    #[arg(long)]
    tokenizer: Option<String>,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(clap::Args)]
pub(crate) struct ComputeArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
    /// Dtype of the activations [default: float32 on a CPU; on a GPU the checkpoint's half
    /// precision, or bfloat16]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceArg {
    /// The GPU where there is one, else the CPU
    Auto,
    Gpu,
    Cpu,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    Float32,
    Float16,
    Bfloat16,
}

impl ModelArgs {
    /// The builder, with nothing read yet.
    pub(crate) fn builder(&self) -> Builder {
        let builder = match &self.model {
            Some(model) => Llamba::builder(model),
            None => Llamba::embedded(),
        };
        let builder = match &self.tokenizer {
            Some(tokenizer) => builder.tokenizer(tokenizer),
            None => builder,
        };
        self.compute.apply(builder)
    }

    /// Loads the model, with a progress bar; its tokenizer too if `text` is needed.
    pub(crate) fn load(&self, text: bool) -> Result<Llamba> {
        let progress = Progress::new("loading", Unit::Bytes);
        let builder = self.builder().progress(move |done, total| progress.at(done, total));
        let builder = if text { builder } else { builder.without_tokenizer() };
        Ok(builder.load()?)
    }
}

impl ComputeArgs {
    fn apply(&self, builder: Builder) -> Builder {
        let builder = builder.compute(match self.device {
            DeviceArg::Auto => Compute::Auto,
            DeviceArg::Gpu => Compute::Gpu,
            DeviceArg::Cpu => Compute::Cpu,
        });
        match self.dtype {
            None => builder,
            Some(DtypeArg::Float32) => builder.dtype(Dtype::Float32),
            Some(DtypeArg::Float16) => builder.dtype(Dtype::Float16),
            Some(DtypeArg::Bfloat16) => builder.dtype(Dtype::Bfloat16),
        }
    }
}
