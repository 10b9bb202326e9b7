//! `mlx-llamba compare`

use anyhow::Result;
use mlx_llamba::evaluate::Pair;
use mlx_llamba::{LanguageModel, Tokenizer};

use crate::model::{PairArgs, with_model};
use crate::texts::{TextArgs, estimate, prediction};

/// Measure the distance between two models on text
#[derive(clap::Args)]
#[command(after_help = "\
KL is KL(REFERENCE || OTHER), in nats per token. Errors of the perplexity ratio are computed from \
differences token by token. If one of the models has a limited context, both read through its \
window. --attention-window limits the other model: with a Transformer given twice, it shows what a \
student has to beat.

Examples:
  mlx-llamba compare ./llamba ./llamba-4bit held-out.txt
  mlx-llamba compare ./small ./small held-out.txt --other-activations int8
  mlx-llamba compare llama.gguf ./student --data stories.jsonl --every 100
  mlx-llamba compare llama.gguf llama.gguf --attention-window 64 held-out.txt
  mlx-llamba compare llamba-stories -m ./mine --data stories.jsonl --json")]
pub(crate) struct Args {
    #[command(flatten)]
    models: PairArgs,
    #[command(flatten)]
    texts: TextArgs,
}

impl Args {
    pub(crate) fn run(mut self) -> Result<()> {
        let names = self.models.names(&mut self.texts)?;
        let (reference, other, tokenizer) = self.models.load(&names)?;
        let other = self.texts.attention.apply(&names[1], other)?;
        with_model!(&reference, |p| with_model!(&other, |q| self.measure(p, q, &names, &tokenizer)))
    }

    fn measure(
        &self,
        reference: &impl LanguageModel,
        other: &impl LanguageModel,
        names: &[String; 2],
        tokenizer: &Tokenizer,
    ) -> Result<()> {
        let models = serde_json::json!({ "models": names });
        self.texts.measure(Pair::new(reference, other)?, tokenizer, models, |report| {
            let [reference, other] = names;
            format!(
                "reference: {reference}\n{}other: {other}\n{}other against reference\n\
                 perplexity      x {}\n\
                 mean KL         {} nats\n\
                 same top-1      {}\n",
                prediction(&report.reference),
                prediction(&report.other),
                estimate(&report.perplexity_ratio),
                estimate(&report.mean_kl),
                estimate(&report.top1_agreement)
            )
        })
    }
}
