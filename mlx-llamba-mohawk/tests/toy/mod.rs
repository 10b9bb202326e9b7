//! A model small enough to see through: layers that map a token's vector to the next one's.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlx_llamba::Llamba;
use mlx_llamba_mohawk::data::{Corpus, Encoder, Sources, Windows, tokenize};
use mlx_llamba_mohawk::train::StageOptions;
use mlx_llamba_mohawk::{Batch, Objective, Parameters, Result};
use mlx_rs::Array;

/// Width of the vectors.
const D: i32 = 6;

/// Part `i` trains `layers.i.w` (d, d) and `layers.i.b` (d,): the mean over tokens of the squared
/// distance of `tanh(x w + b)` to the next token's vector, where `x` is the token's vector, or
/// nothing at a document's first token. `embedding` (vocab, d) is never trained.
pub(crate) struct Toy {
    pub(crate) parts: usize,
    /// The factor of all losses at and after this token count of calls.
    pub(crate) trap: Option<fn(usize, &Batch) -> f32>,
}

impl Toy {
    pub(crate) fn new(parts: usize) -> Self {
        Self { parts, trap: None }
    }

    pub(crate) fn parameters(&self, vocab: usize) -> Parameters {
        let mut random = 17u64;
        let mut array = |shape: &[i32]| {
            let mut value = || {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 40) as f32 / (1 << 24) as f32 - 0.5
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
            Array::from_slice(&values, shape)
        };
        let mut all = Parameters::from([("embedding".to_owned(), array(&[vocab as i32, D]))]);
        for part in 0..self.parts {
            all.insert(format!("layers.{part}.w"), array(&[D, D]));
            all.insert(format!("layers.{part}.b"), array(&[D]));
        }
        all
    }
}

impl Objective for Toy {
    type Targets = ();

    fn parts(&self) -> usize {
        self.parts
    }

    fn trains(&self, part: usize) -> Vec<String> {
        if part >= self.parts {
            return Vec::new();
        }
        vec![format!("layers.{part}.b"), format!("layers.{part}.w")]
    }

    fn targets(&self, _: &Batch) -> Result<()> {
        Ok(())
    }

    fn loss(&self, part: usize, parameters: &Parameters, batch: &Batch, (): &()) -> Result<Array> {
        let table = &parameters["embedding"];
        let (w, b) =
            (&parameters[&format!("layers.{part}.w")], &parameters[&format!("layers.{part}.b")]);
        let mut x = table.take_axis(&batch.tokens, 0)?; // (b, l, d)
        if let Some(starts) = &batch.starts {
            let zero = Array::from_f32(0.0);
            x = mlx_rs::ops::select(starts.expand_dims(-1)?, zero, &x)?;
        }
        let y = mlx_rs::ops::tanh(x.matmul(w)?.add(b)?)?; // (b, l, d)
        let error = y.subtract(table.take_axis(&batch.next, 0)?)?.square()?;
        let loss = error.sum_axis(-1, false)?.mean(None)?;
        Ok(match self.trap {
            Some(trap) => loss.multiply(Array::from_f32(trap(part, batch)))?,
            None => loss,
        })
    }
}

/// Nine short stories in a file.
pub(crate) fn stories(directory: &Path) -> PathBuf {
    let names = ["Anna", "Ben", "Cleo", "Dora", "Emil", "Finn", "Gus", "Hana", "Ida"];
    let lines: String = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let line = |j| format!("{name} had {} red apples. ", 10 * i + j);
            let text: String = (0..2 + i % 3).map(line).collect();
            serde_json::json!({ "text": text.trim_end() }).to_string() + "\n"
        })
        .collect();
    let path = directory.join("stories.jsonl");
    std::fs::write(&path, lines).unwrap();
    path
}

/// The encoder of the model inside the library; 4096 entries.
pub(crate) fn encoder() -> Encoder {
    let tokenizer = Llamba::embedded().load_tokenizer().unwrap();
    Encoder::new(&tokenizer, "embedded".into(), 4096, None, None).unwrap()
}

pub(crate) fn corpus(directory: &Path) -> Rc<Corpus> {
    let sources = Sources::new(&stories(directory), "text").unwrap();
    Rc::new(tokenize(&sources, &encoder(), directory, &mut mlx_llamba::progress::ignore).unwrap())
}

pub(crate) fn windows(corpus: &Rc<Corpus>, length: usize) -> Windows {
    Windows::new(corpus, 0..corpus.documents(), length, true, &[1, 0]).unwrap()
}

pub(crate) fn options(text: &str) -> StageOptions {
    let base = "tokens = 640\nlr = 0.01\nbatch = 4\nlength = 8\n";
    let mut all: toml::Table = toml::from_str(base).unwrap();
    all.extend(toml::from_str::<toml::Table>(text).unwrap());
    all.try_into().unwrap()
}

/// All values of all parameters, as bits.
pub(crate) fn bits(parameters: &Parameters) -> Vec<(String, Vec<u32>)> {
    let bits = |array: &Array| {
        mlx_llamba::mlx::floats(array).unwrap().iter().map(|x| x.to_bits()).collect()
    };
    parameters.iter().map(|(name, array)| (name.clone(), bits(array))).collect()
}
