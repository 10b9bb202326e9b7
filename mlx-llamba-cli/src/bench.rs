//! `mlx-llamba bench`

use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;
use mlx_llamba::{Compute, Model, Preset, State};
use mlx_llamba_kernels::{Mode, Scheme};
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Dtype, memory};
use serde::Serialize;

use crate::model::ModelArgs;
use crate::output::show;

/// Tokens of a prompt read in one piece.
const PIECE: usize = 512;

/// Measure speed and memory
#[derive(clap::Args)]
#[command(after_help = "\
Each row is a mean and a standard deviation over the repetitions, after a warm-up.

Examples:
  mlx-llamba bench
  mlx-llamba bench --shape 1b --bits 4 -p 128,512,2048 -n 32
  mlx-llamba bench --model ./llamba --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights in the shape of a published model, instead of a model
    #[arg(long, value_enum, conflicts_with_all = ["model", "tokenizer", "dtype"])]
    shape: Option<ShapeArg>,
    /// Quantize the random weights: bits per weight, in groups of 64
    #[arg(long, requires = "shape")]
    bits: Option<usize>,
    /// Lengths of prompts to read
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "128,512,2048"
    )]
    prompt: Vec<usize>,
    /// Numbers of tokens to generate after reading one token
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_value = "64")]
    generate: Vec<usize>,
    /// Times each row is measured
    #[arg(short, long, default_value_t = 3)]
    repetitions: usize,
    /// Print JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeArg {
    #[value(name = "1b")]
    One,
    #[value(name = "3b")]
    Three,
    #[value(name = "8b")]
    Eight,
}

/// One row of the table.
#[derive(Serialize)]
struct Row {
    test: String,
    tokens_per_second: f64,
    deviation: f64,
    time_to_first_token: Option<f64>,
    peak_memory: usize,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        if self.repetitions == 0 {
            bail!("--repetitions 0 measures nothing; expected at least 1");
        }
        let loaded;
        let random;
        let model = match self.shape {
            None => {
                loaded = self.model.load(false)?;
                loaded.model()
            }
            Some(shape) => {
                random = self.random(shape)?;
                &random
            }
        };
        let weights = model.weight_bytes() as f64 / f64::from(1 << 20);
        if !self.json {
            show(&format!(
                "weights {weights:.1} MiB, {:?} activations, kernels: {}\n\n\
                 | test | tok/s | ± | first token, s | peak MiB |\n|---|---|---|---|---|\n",
                model.dtype(),
                model.backend().describe()
            ))?;
        }
        let prompt = |l: usize| -> Vec<u32> { (0..l).map(|i| (i * 7919 % 1000) as u32).collect() };
        for &l in self.prompt.iter().filter(|&&l| l > 0) {
            // A piece warms up as well as the whole.
            read(model, &prompt(l.min(PIECE)))?;
            let prompt = prompt(l);
            self.row(format!("read {l}"), l, true, || read(model, &prompt).map(drop))?;
        }
        for &n in self.generate.iter().filter(|&&n| n > 0) {
            let (token, state) = read(model, &[1])?;
            let run = |n| generate(model, token.clone(), state.clone(), n);
            run(n.min(2))?;
            self.row(format!("generate {n}"), n, false, || run(n))?;
        }
        Ok(())
    }

    fn random(&self, shape: ShapeArg) -> Result<Model> {
        let preset = match shape {
            ShapeArg::One => Preset::Llamba1B,
            ShapeArg::Three => Preset::Llamba3B,
            ShapeArg::Eight => Preset::Llamba8B,
        };
        let scheme = match self.bits {
            Some(bits) => Some(Scheme::new(64, bits, Mode::Affine)?),
            None => None,
        };
        let dtype = match Compute::Auto.select()? {
            mlx_rs::DeviceType::Cpu => Dtype::Float32,
            mlx_rs::DeviceType::Gpu => Dtype::Bfloat16,
        };
        let model = Model::random(preset.config()?, scheme, dtype)?;
        model.materialize(|_, _| {})?;
        Ok(model)
    }

    fn row(
        &self,
        test: String,
        tokens: usize,
        first: bool,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        memory::reset_peak_memory()?;
        let mut times = Vec::with_capacity(self.repetitions);
        for _ in 0..self.repetitions {
            let start = Instant::now();
            run()?;
            times.push(start.elapsed().as_secs_f64());
        }
        let speeds: Vec<f64> = times.iter().map(|time| tokens as f64 / time).collect();
        let count = speeds.len() as f64;
        let mean = speeds.iter().sum::<f64>() / count;
        let variance = speeds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / count;
        let row = Row {
            test,
            tokens_per_second: mean,
            deviation: variance.sqrt(),
            time_to_first_token: first.then(|| times.iter().sum::<f64>() / count),
            peak_memory: memory::peak_memory()?,
        };
        if self.json {
            return show(&(serde_json::to_string(&row)? + "\n"));
        }
        let first = row.time_to_first_token.map_or("".into(), |time| format!("{time:.3}"));
        show(&format!(
            "| {} | {:.1} | {:.1} | {first} | {:.1} |\n",
            row.test,
            row.tokens_per_second,
            row.deviation,
            row.peak_memory as f64 / f64::from(1 << 20)
        ))
    }
}

/// Reads a prompt up to its next token (1, 1), in pieces.
fn read(model: &Model, prompt: &[u32]) -> Result<(Array, State)> {
    let mut state = model.state(1)?;
    let mut token = Array::from_slice(&[0u32], &[1, 1]);
    for piece in prompt.chunks(PIECE) {
        let (ids, _) = model.tokens(&[piece])?;
        let (hidden, next) = model.hidden(&ids, None, &state)?;
        next.eval()?;
        token = likeliest(model, &hidden)?;
        state = next;
    }
    eval([&token])?;
    Ok((token, state))
}

/// Generates `n` tokens, each asked for before the one before it is waited for.
fn generate(model: &Model, mut token: Array, mut state: State, n: usize) -> Result<()> {
    for _ in 0..n {
        let (hidden, next) = model.hidden(&token, None, &state)?;
        let following = likeliest(model, &hidden)?;
        async_eval([&following])?;
        eval([&token])?;
        (token, state) = (following, next);
    }
    Ok(eval([&token])?)
}

/// The likeliest token after the last hidden state: (1, 1).
fn likeliest(model: &Model, hidden: &Array) -> Result<Array> {
    let last = hidden.try_index((.., -1, ..))?; // (1, d)
    Ok(argmax_axis(model.head(&last)?, -1, true)?)
}
