//! `mlx-llamba quantize`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use mlx_llamba::Llamba;
use mlx_llamba::evaluate::{Comparison, Window, compare};
use mlx_llamba::quantize::{Override, QuantizeOptions, Recipe, quantize_with};
use mlx_llamba::units::count;
use mlx_llamba_kernels::Mode;
use mlx_llamba_mohawk::data::{Sources, is_json};

use crate::model::{DtypeArg, SourceArgs};
use crate::output::show;
use crate::progress::{Progress, Unit};
use crate::rewrite;

/// Write a model with fewer bits per weight
#[derive(clap::Args)]
#[command(after_help = "\
The output is a directory with one or more safetensors files, a config.json with the quantization \
block that mlx-lm writes, and the tokenizer. It appears when it is complete, or not at all.

Examples:
  mlx-llamba quantize --model cartesia-ai/Llamba-1B --bits 4 --output small
  mlx-llamba quantize --model ./llamba --recipe mixed --report held-out.txt \\
      --output ./small
  mlx-llamba quantize --model ./llamba --override 'down_proj=6' \\
      --override 'lm_head=none' --output ./small")]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Tokenizer for --report, if the model has none
    #[arg(long)]
    tokenizer: Option<String>,
    /// Bits per weight: 2, 3, 4, 5, 6 or 8 [default: 4, or the mode's own]
    #[arg(long)]
    bits: Option<usize>,
    /// Number of weights that share a scale: 32, 64 or 128 [default: 64, or the mode's own]
    #[arg(long)]
    group_size: Option<usize>,
    /// Format of quantized weights
    #[arg(long, value_enum, default_value_t = ModeArg::Affine)]
    mode: ModeArg,
    /// Distribution of bits over the matrices
    #[arg(long, value_enum, default_value_t = RecipeArg::Uniform)]
    recipe: RecipeArg,
    /// Another format for matrices that match a pattern: PATTERN=none, =BITS, =BITS:GROUP or =MODE;
    /// may be given more than once, the last match counts
    #[arg(long = "override", value_name = "PATTERN=FORMAT")]
    overrides: Vec<String>,
    /// Do not quantize the embedding (in a tied model also the head)
    #[arg(long)]
    keep_embedding: bool,
    /// Do not quantize the head of an untied model
    #[arg(long)]
    keep_head: bool,
    /// Cast weights to this dtype first, which is also that of scales and biases [default: as
    /// stored]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Quantize a quantized model again, from its dequantized weights
    #[arg(long)]
    requantize: bool,
    /// Directory to write
    #[arg(short, long)]
    output: PathBuf,
    /// Replace the output if it is a model
    #[arg(long)]
    overwrite: bool,
    /// Measure perplexity, and the KL divergence from the original, on a text, or on the texts of a
    /// .json or .jsonl file
    #[arg(long, value_name = "TEXT FILE")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

#[derive(Clone, Copy, ValueEnum)]
enum RecipeArg {
    /// The same bits for all matrices
    Uniform,
    /// More bits where a Llamba is sensitive; the rows that compute A_log stay dense
    Mixed,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let options = self.options()?;
        // Problems with the text are found before the work begins.
        let ids = self.report.as_deref().map(|file| self.read(file)).transpose()?;
        let checkpoint = self.source.builder().checkpoint()?;
        let report = rewrite::watched("quantizing", |on_progress| {
            quantize_with(&checkpoint, &self.output, &options, on_progress)
        })?;
        let comparison = match ids {
            Some(ids) => Some(self.compare(&ids, &report.path)?),
            None => None,
        };
        if self.json {
            let all = serde_json::json!({ "quantized": report, "comparison": comparison });
            return show(&format!("{all:#}\n"));
        }
        show(&format!("{report}\n"))?;
        let Some(c) = comparison else { return Ok(()) };
        show(&format!(
            "perplexity {:.4}, was {:.4} ({:+.2} %); mean KL {:.5} nats; same top-1 token \
             {:.1} %; over {}\n",
            c.other.perplexity.value,
            c.reference.perplexity.value,
            100.0 * (c.perplexity_ratio.value - 1.0),
            c.mean_kl.value,
            100.0 * c.top1_agreement.value,
            count(c.tokens, "token")
        ))
    }

    fn options(&self) -> Result<QuantizeOptions> {
        let mode = match self.mode {
            ModeArg::Affine => Mode::Affine,
            ModeArg::Mxfp4 => Mode::Mxfp4,
            ModeArg::Mxfp8 => Mode::Mxfp8,
            ModeArg::Nvfp4 => Mode::Nvfp4,
        };
        let mut options = QuantizeOptions::new(mode, self.bits, self.group_size)?
            .embedding(!self.keep_embedding)
            .head(!self.keep_head)
            .recipe(match self.recipe {
                RecipeArg::Uniform => Recipe::Uniform,
                RecipeArg::Mixed => Recipe::Mixed,
            })
            .requantize(self.requantize)
            .overwrite(self.overwrite);
        let overrides = self.overrides.iter().map(|text| Override::parse(text, options.scheme));
        options.overrides = overrides.collect::<Result<_, _>>()?;
        options.dtype = self.dtype.map(Into::into);
        Ok(options)
    }

    /// Returns the token ids of the report's text.
    fn read(&self, file: &Path) -> Result<Vec<u32>> {
        let text = if is_json(file) {
            let sources = Sources::new(file, "text")?;
            let texts = sources.texts().map(|text| Ok(text?.text));
            texts.collect::<Result<Vec<String>>>()?.join("\n\n")
        } else {
            mlx_llamba::files::read_text(file)
                .with_context(|| format!("cannot read {}", file.display()))?
        };
        let builder = match &self.tokenizer {
            Some(name) => self.source.builder().loaded_tokenizer(self.source.tokenizer(name)?),
            None => self.source.builder(),
        };
        let ids = builder.load_tokenizer()?.encode(&text, true)?;
        if ids.len() < 2 {
            let found = count(ids.len() as u64, "token");
            bail!("{}: {found}; a report needs at least 2", file.display());
        }
        Ok(ids)
    }

    fn compare(&self, ids: &[u32], quantized: &Path) -> Result<Comparison> {
        let original = self.source.builder().without_tokenizer().load()?;
        let name = quantized.display().to_string();
        let quantized = Llamba::builder(name).without_tokenizer().load()?;
        let progress = Progress::new("comparing", Unit::Tokens);
        let mut on_progress = progress.callback();
        Ok(compare(original.model(), quantized.model(), ids, Window::default(), &mut on_progress)?)
    }
}
