//! `mlx-llamba logits`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::files::FloatTensor;
use mlx_llamba::mlx::floats;
use mlx_llamba::{Model, State};
use mlx_rs::ops::indexing::TryIndexOp;

use crate::model::ModelArgs;
use crate::output::{check_parent, usage};
use crate::progress::{Progress, Unit};

/// The chunk size in tokens without --split.
const PIECE: usize = 512;

/// Write logits and states of a prompt to a file, to compare implementations
#[derive(clap::Args)]
// In lines that fit a terminal.
#[command(override_usage = "\
mlx-llamba logits [OPTIONS] --output <FILE>
           <--prompt <TEXT>|--tokens <ID,...>|--batch <FILE>>")]
#[command(after_help = "\
The file holds float32 tensors: logits (l, vocab), with padding, and the state after the last token, \
layers.{i}.ssm_state (h, p, n) and layers.{i}.conv_state (k-1, conv_dim). With --batch, each name \
begins with the number of the row: 0.logits, 0.layers.0.ssm_state, and so on.

Examples:
  mlx-llamba logits --tokens 1,866,941 --output once.safetensors
  mlx-llamba logits --prompt \"Once upon a time\" \\
      --split 2,1 --output split.safetensors
  echo '[[1,866],[1,866,941,259]]' > rows.json
  mlx-llamba logits --batch rows.json --output rows.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: Input,
    /// Read the prompt in chunks of these sizes, in tokens; the last chunk is the rest
    #[arg(long, value_name = "N,...", value_delimiter = ',', conflicts_with = "step")]
    split: Vec<usize>,
    /// Read the prompt token by token
    #[arg(long)]
    step: bool,
    /// Safetensors file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Prompt as text
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Prompt as token ids; needs no tokenizer
    #[arg(long, value_name = "ID,...", value_delimiter = ',', allow_negative_numbers = true)]
    tokens: Vec<u32>,
    /// JSON file with a list of lists of token ids, read as one batch
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.split.contains(&0) {
            usage!("--split has a chunk of 0 tokens; expected at least 1");
        }
        check_parent(&self.output)?;
        let needs_text = self.input.prompt.is_some();
        let llamba = self.model.load(needs_text)?;
        let model = llamba.model();
        let rows = match &self.input {
            Input { prompt: Some(text), .. } => {
                vec![llamba.require_tokenizer()?.encode(text, true)?]
            }
            Input { batch: Some(path), .. } => read_rows(path)?,
            Input { tokens, .. } => vec![tokens.clone()],
        };
        let (logits, state) = self.read(model, &rows)?;
        let mut tensors = Vec::new();
        for (row, logits) in logits.into_iter().enumerate() {
            let prefix = if self.input.batch.is_some() { format!("{row}.") } else { String::new() };
            tensors.push(FloatTensor { name: "logits".into(), ..logits });
            tensors.extend(state.tensors(row)?);
            let new = tensors.len() - 1 - 2 * model.config().n_layer..;
            tensors[new].iter_mut().for_each(|tensor| tensor.name.insert_str(0, &prefix));
        }
        let metadata = HashMap::from([("model".into(), model.fingerprint().into())]);
        FloatTensor::save(&tensors, metadata, &self.output)?;
        Ok(())
    }

    /// Computes the logits of all rows, without padding, and the state after each row's last token.
    fn read(&self, model: &Model, rows: &[Vec<u32>]) -> Result<(Vec<FloatTensor>, State)> {
        let vocab = model.config().padded_vocab();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        // All rows are checked before the first chunk is read.
        model.tokens(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let empty = |row: &Vec<u32>| {
            let (mut values, count) = (Vec::new(), row.len() * vocab);
            values
                .try_reserve_exact(count)
                .with_context(|| format!("no memory for {count} logits of {} tokens", row.len()))?;
            Ok(FloatTensor { name: String::new(), shape: vec![row.len(), vocab], values })
        };
        let mut logits = rows.iter().map(empty).collect::<Result<Vec<_>>>()?;
        let mut state = model.state(rows.len())?;
        let reading = Progress::new("reading", Unit::Tokens);
        let (mut start, mut pieces) = (0, self.split.iter().copied());
        while start < longest {
            let piece = if self.step { 1 } else { pieces.next().unwrap_or(PIECE) };
            let end = longest.min(start.saturating_add(piece));
            let cut: Vec<&[u32]> =
                rows.iter().map(|row| &row[start.min(row.len())..end.min(row.len())]).collect();
            let (tokens, lengths) = model.tokens(&cut)?;
            let (output, next) = model.forward(&tokens, lengths.as_ref(), &state)?;
            for (i, (row, logits)) in cut.iter().zip(&mut logits).enumerate() {
                if !row.is_empty() {
                    let real = output.try_index((i as i32, ..row.len() as i32, ..))?; // (l, vocab)
                    logits.values.extend(floats(&real)?);
                }
            }
            next.eval()?;
            (state, start) = (next, end);
            reading.at(start, longest);
        }
        Ok((logits, state))
    }
}

fn read_rows(path: &Path) -> Result<Vec<Vec<u32>>> {
    let name = path.display();
    let text = mlx_llamba::files::read_text(path).with_context(|| format!("cannot read {name}"))?;
    let rows: Vec<Vec<u32>> = serde_json::from_str(&text)
        .with_context(|| format!("{name} is not a JSON list of lists of token ids"))?;
    if let Some(row) = rows.iter().position(Vec::is_empty) {
        bail!("{name}: row {row} has no tokens");
    }
    if rows.is_empty() {
        bail!("{name}: no rows");
    }
    Ok(rows)
}
