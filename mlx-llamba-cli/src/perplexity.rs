//! `mlx-llamba perplexity`

use anyhow::Result;
use mlx_llamba::evaluate::Single;
use mlx_llamba::{LanguageModel, Tokenizer};

use crate::model::{AttentionArgs, ModelArgs, with_model};
use crate::output::show;
use crate::texts::{TextArgs, expect_tokens, prediction};

/// Measure how well a model predicts text
#[derive(clap::Args)]
#[command(after_help = "\
A Llamba reads a text of any length in constant memory. A Transformer reads it through a window of \
as many tokens as it was trained on, which moves by --stride tokens.

Standard errors over tokens assume independent tokens, which those of one text are not. Standard \
errors over documents assume independent documents; prefer these.

Examples:
  mlx-llamba perplexity --model ./llamba book.txt
  mlx-llamba perplexity --model ./llamba --data stories.jsonl --every 100 --json
  zcat log.gz | mlx-llamba perplexity --model ./llamba -
  mlx-llamba perplexity --model llama.gguf --stride 128 book.txt
  mlx-llamba perplexity --model llama.gguf --attention-window 64 book.txt")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    attention: AttentionArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let loaded = self.attention.apply(self.model.name(), self.model.load_any(true)?)?;
        let tokenizer = loaded.require_tokenizer()?;
        with_model!(&loaded, |model| self.measure(model, tokenizer))
    }

    fn measure(&self, model: &impl LanguageModel, tokenizer: &Tokenizer) -> Result<()> {
        let (report, time) = self.texts.read(Single::new(model)?, tokenizer)?;
        expect_tokens(report.tokens, &self.texts)?;
        if self.json {
            let names = serde_json::json!({
                "model": self.model.name(), "text": self.texts.name(),
                "attention_window": self.attention.json(),
            });
            return show(&time.json(&report, report.tokens, names)?);
        }
        show(&prediction(&report.prediction))?;
        show(&time.line(report.tokens, report.bytes, report.documents))
    }
}
