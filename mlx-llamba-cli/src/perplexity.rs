//! `mlx-llamba perplexity`

use anyhow::Result;
use mlx_llamba::evaluate::Single;
use mlx_llamba::{LanguageModel, Tokenizer};

use crate::model::{ModelArgs, with_model};
use crate::texts::{TextArgs, prediction};

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
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        self.texts.check()?;
        let loaded = self.texts.attention.apply(self.model.name(), self.model.load_any(true)?)?;
        let tokenizer = loaded.require_tokenizer()?;
        with_model!(&loaded, |model| self.measure(model, tokenizer))
    }

    fn measure(&self, model: &impl LanguageModel, tokenizer: &Tokenizer) -> Result<()> {
        let names = serde_json::json!({ "model": self.model.name() });
        self.texts
            .measure(Single::new(model)?, tokenizer, names, |report| prediction(&report.prediction))
    }
}
