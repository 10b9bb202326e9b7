//! The texts for measuring models, and the output of the results.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mlx_llamba::Tokenizer;
use mlx_llamba::evaluate::{
    Comparison, Document, Estimate, Evaluation, Perplexity, Prediction, Reader, Window,
};
use mlx_llamba::pieces::Pieces;
use mlx_llamba::units::count;
use mlx_llamba_mohawk::data::{Encoder, Sources, is_held_out, is_json};
use serde::Serialize;
use serde_json::{Value, json};

use crate::model::AttentionArgs;
use crate::output::{show, usage};
use crate::progress::{Progress, Unit};

/// The number of bytes read at once.
const PIECE: usize = 1 << 16;

#[derive(clap::Args)]
pub(crate) struct TextArgs {
    /// Text of any length, read once from beginning to end; - is standard input. A .json or .jsonl
    /// file is documents, as for --data
    #[arg(value_name = "TEXT FILE", conflicts_with = "data")]
    text: Option<PathBuf>,
    /// Documents, each read from an empty state and with the tokens that begin and end a text: one
    /// per line of a .jsonl file, or one per other file of a directory
    #[arg(long, value_name = "PATH", hide_env = true)]
    data: Option<PathBuf>,
    /// Field with the text in a line of JSONL
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,
    /// Use only documents 0, K, 2K and so on, which training with heldout_every = K holds out
    #[arg(
        long, value_name = "K", default_value_t = 1, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    every: u64,
    /// Maximum number of documents
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Window size in tokens; each window is read from an empty state [default: as many as the
    /// models can read]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens from the start of one window to the next; the overlap is read twice [default: half a
    /// window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    #[command(flatten)]
    pub(crate) attention: AttentionArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl TextArgs {
    /// Takes an argument as the text file.
    pub(crate) fn take(&mut self, text: &str) -> Result<()> {
        if self.text.is_some() || self.data.is_some() {
            usage!("{text} is one argument too many: the text is given already");
        }
        self.text = Some(text.into());
        Ok(())
    }

    /// Checks that there is a text, before a model is loaded.
    pub(crate) fn check(&self) -> Result<()> {
        match (&self.text, &self.data) {
            (None, None) => usage!("no text: give a file or --data"),
            _ => Ok(()),
        }
    }

    /// Reads the texts and shows the report of `reader`: as JSON with `models`, or in the lines that
    /// `describe` makes.
    pub(crate) fn measure<R: Reader>(
        &self,
        reader: R,
        tokenizer: &Tokenizer,
        models: Value,
        describe: impl FnOnce(&R::Report) -> String,
    ) -> Result<()>
    where
        R::Report: Measured,
    {
        let vocab = reader.vocab_size();
        let mut window = Window::default();
        (window.length, window.stride) = (self.window, self.stride);
        let mut evaluation = Evaluation::new(reader, window, tokenizer.bos_id())?;
        let start = Instant::now();
        let documents = self.text.as_ref().filter(|text| is_json(text));
        match (self.data.as_ref().or(documents), &self.text) {
            (Some(data), _) => self.documents(data, vocab, tokenizer, &mut evaluation)?,
            (None, Some(text)) => {
                if self.limit.is_some() || self.every > 1 {
                    usage!(
                        "--limit and --every are for documents: --data, or a .json or .jsonl file"
                    );
                }
                tokenizer.check_vocabulary(vocab)?;
                stream(text, tokenizer, &mut evaluation)?;
            }
            (None, None) => self.check()?,
        }
        let (seconds, report) = (start.elapsed().as_secs_f64(), evaluation.report());
        let path = self.data.as_ref().or(self.text.as_ref());
        let name = path.map(|path| path.display().to_string());
        let (tokens, bytes, documents) = report.amount();
        if tokens == 0 {
            let name = name.unwrap_or_default();
            bail!("{name}: no token to predict; a text needs at least two");
        }
        let speed = tokens as f64 / seconds.max(1e-9);
        if !self.json {
            return show(&format!(
                "{}{}, {} in {}; {speed:.1} tok/s\n",
                describe(&report),
                count(tokens, "token"),
                count(bytes, "byte"),
                count(documents, "text")
            ));
        }
        let mut all = models;
        for part in [
            json!({ "text": name, "attention_window": self.attention.json() }),
            serde_json::to_value(&report)?,
            json!({ "seconds": seconds, "tokens_per_second": speed }),
        ] {
            if let (Some(all), Value::Object(part)) = (all.as_object_mut(), part) {
                all.extend(part);
            }
        }
        show(&format!("{all:#}\n"))
    }

    fn documents<R: Reader>(
        &self,
        data: &Path,
        vocab: usize,
        tokenizer: &Tokenizer,
        evaluation: &mut Evaluation<R>,
    ) -> Result<()> {
        let sources = Sources::new(data, &self.field)?;
        let encoder = Encoder::new(tokenizer, String::new(), vocab, None, None)?;
        let progress = Progress::new("reading", Unit::Bytes);
        let numbered = sources.texts().enumerate();
        let wanted = numbered.filter(|(number, _)| is_held_out(*number, self.every as usize));
        for (_, text) in wanted.take(self.limit.unwrap_or(usize::MAX)) {
            let text = text?;
            let tokens = encoder.encode(&text)?.ids;
            evaluation.document(&Document { tokens, bytes: text.text.len() as u64 })?;
            progress.at(text.end as usize, sources.bytes() as usize);
        }
        Ok(())
    }
}

/// A report on texts.
pub(crate) trait Measured: Serialize {
    /// The numbers of tokens predicted, of bytes, and of documents.
    fn amount(&self) -> (u64, u64, u64);
}

impl Measured for Perplexity {
    fn amount(&self) -> (u64, u64, u64) {
        (self.tokens, self.bytes, self.documents)
    }
}

impl Measured for Comparison {
    fn amount(&self) -> (u64, u64, u64) {
        (self.tokens, self.bytes, self.documents)
    }
}

/// Reads a text as it arrives, in constant memory.
fn stream<R: Reader>(
    path: &Path,
    tokenizer: &Tokenizer,
    evaluation: &mut Evaluation<R>,
) -> Result<()> {
    let from_stdin = path == Path::new("-");
    let name = if from_stdin { "standard input".into() } else { path.display().to_string() };
    let cannot = || format!("cannot read {name}");
    let (mut input, length): (Box<dyn Read>, u64) = if from_stdin {
        (Box::new(std::io::stdin().lock()), 0)
    } else {
        let file = mlx_llamba::files::open_file(path).with_context(cannot)?;
        let length = file.metadata().with_context(cannot)?.len();
        (Box::new(file), length)
    };
    let progress = Progress::new("reading", Unit::Bytes);
    let (mut pieces, mut bytes) = (Pieces::default(), 0);
    let mut read = |piece: &[u8]| -> Result<()> {
        let text = std::str::from_utf8(piece).map_err(|error| {
            let at = bytes + error.valid_up_to() as u64;
            anyhow::anyhow!("{name} is not UTF-8 text: byte {at}")
        })?;
        if !text.is_empty() {
            evaluation.push(&tokenizer.encode(text, bytes == 0)?)?;
        }
        bytes += piece.len() as u64;
        progress.at(bytes as usize, length.max(bytes + u64::from(length == 0)) as usize);
        Ok(())
    };
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match input.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            count => count.with_context(cannot)?,
        };
        if count == 0 {
            break;
        }
        let mut rest = &buffer[..count];
        while let Some(piece) = pieces.push(&mut rest) {
            read(&piece)?;
        }
    }
    read(&pieces.rest())?;
    evaluation.end(bytes);
    Ok(())
}

/// Formats an estimate with its errors.
pub(crate) fn estimate(estimate: &Estimate) -> String {
    let digits = 4;
    let mut text = format!("{:.digits$}", estimate.value);
    if let Some(error) = estimate.error {
        text += &format!(" ± {error:.digits$}");
    }
    if let Some(error) = estimate.document_error {
        text += &format!(" (over documents ± {error:.digits$})");
    }
    text
}

/// Formats the results of one model, one per line.
pub(crate) fn prediction(prediction: &Prediction) -> String {
    let mut text = format!(
        "perplexity      {}\nnats per token  {}\n",
        estimate(&prediction.perplexity),
        estimate(&prediction.nats_per_token)
    );
    if let Some(bits) = &prediction.bits_per_byte {
        text += &format!("bits per byte   {}\n", estimate(bits));
    }
    text
}
