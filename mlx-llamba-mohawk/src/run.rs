//! What distillation and training from nothing have in common: text, identity, and the directory
//! that a model ends up in.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::data::{Corpus, Encoder, Sources, Windows, held_out, is_held_out, tokenize};
use crate::evaluate::{Document, Metrics};
use crate::recipe::{DataOptions, EvaluationOptions};
use crate::train::{Ending, Event, Identity, io};

/// What a caller is told, and can stop the run at.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// Text becomes tokens: bytes done, and in all.
    Tokenizing(u64, u64),
    /// Training is about to begin, or to go on.
    Begins {
        /// The model in a line.
        model: String,
        /// Tokens that are trained on, and tokens that are held out and read at evaluations.
        tokens: (u64, u64),
        /// Steps that are done, and in all stages.
        steps: (u64, u64),
    },
    /// A step, an evaluation, a checkpoint.
    Train(Event<'a>),
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether it is done.
    pub ending: Ending,
    /// The last measurement of this call.
    pub metrics: Option<Metrics>,
}

/// Who is told.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Note<'_>) -> ControlFlow<()>;

/// The text of a run.
pub(crate) struct Texts {
    corpus: Rc<Corpus>,
    /// Every how many documents one is held out.
    every: usize,
    resets: bool,
    pub(crate) held_out: Vec<Document>,
}

impl Texts {
    /// Reads the text at `path`, and what is held out of it.
    pub(crate) fn open(
        path: &Path,
        data: &DataOptions,
        evaluation: &EvaluationOptions,
        encoder: &Encoder,
        cache: &Path,
        tell: Tell<'_>,
    ) -> Result<Self> {
        let mut read = |path: &Path| {
            let sources = Sources::new(path, &data.field)?;
            let mut progress = |done, total| tell(Note::Tokenizing(done, total));
            tokenize(&sources, encoder, cache, &mut progress)
        };
        let corpus = Rc::new(read(path)?);
        let EvaluationOptions { tokens, length, .. } = *evaluation;
        let (every, held_out) = match &data.heldout {
            _ if tokens == 0 => (data.heldout_every, Vec::new()),
            Some(path) => {
                let other = read(path)?;
                (0, held_out(&other, 0..other.documents(), tokens, length))
            }
            None => {
                let every = data.heldout_every;
                let numbers = (0..corpus.documents()).filter(|&i| is_held_out(i, every));
                (every, held_out(&corpus, numbers, tokens, length))
            }
        };
        Ok(Self { corpus, every, resets: data.resets, held_out })
    }

    pub(crate) fn hash(&self) -> &str {
        self.corpus.hash()
    }

    /// Tokens that are held out and read.
    pub(crate) fn held_out_tokens(&self) -> u64 {
        self.held_out.iter().map(|document| document.tokens.len() as u64).sum()
    }

    /// Windows over what is not held out.
    pub(crate) fn windows(&self, length: usize, names: &[u64]) -> Result<Windows> {
        let kept = (0..self.corpus.documents()).filter(|&i| !is_held_out(i, self.every));
        Windows::new(&self.corpus, kept, length, self.resets, names)
    }
}

/// Refuses an output that has a model already: the one to come would replace it.
pub(crate) fn expect_no_model(output: &Path, resume: bool) -> Result<()> {
    let taken = |name: &str| output.join(name).exists();
    if !resume && (taken("config.json") || taken("model.safetensors")) {
        return Err(mlx_llamba::Error::OutputExists { path: output.to_owned() }.into());
    }
    Ok(())
}

/// Gives `save` a directory to write a model to, and then moves its files to `output`,
/// `config.json` last: a directory without one is no model.
pub(crate) fn publish(output: &Path, save: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let made = save(&output.join(".model"))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&made).map_err(io("list", &made))? {
        names.push(entry.map_err(io("list", &made))?.file_name());
    }
    names.sort_by_key(|name| name == "config.json");
    for name in names {
        let path = output.join(&name);
        fs::rename(made.join(&name), &path).map_err(io("write", &path))?;
    }
    fs::remove_dir(&made).map_err(io("remove", &made))?;
    File::open(output).and_then(|file| file.sync_all()).map_err(io("write", output))
}

/// Adds what a value says to an identity, under dotted names.
pub(crate) fn identify(identity: &mut Identity, name: &str, value: &impl Serialize) {
    fn add(identity: &mut Identity, name: String, value: Value) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    add(identity, format!("{name}.{field}"), value);
                }
            }
            Value::Null => {}
            other => drop(identity.insert(name, other)),
        }
    }
    // Recipes are plain data, with text for keys.
    add(identity, name.to_owned(), serde_json::to_value(value).unwrap_or_default());
}

/// What stands for a model's files: their lengths, and a hash over samples of each.
pub(crate) fn fingerprint(path: &Path) -> Result<String> {
    const SAMPLE: u64 = 1 << 20;
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(io("list", path))? {
            let file = entry.map_err(io("list", path))?.path();
            let model = file.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
            if model || file.file_name().is_some_and(|name| name == "config.json") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut hasher = Sha256::new();
    for path in files {
        let mut sample = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            let length = file.metadata()?.len();
            hasher.update(length.to_le_bytes());
            for i in 0..=8 {
                file.seek(SeekFrom::Start(length.saturating_sub(SAMPLE) / 8 * i))?;
                let mut bytes = Vec::new();
                file.by_ref().take(SAMPLE / 8).read_to_end(&mut bytes)?;
                hasher.update(&bytes);
            }
            Ok(())
        };
        sample().map_err(io("read", &path))?;
    }
    Ok(format!("{:x}", hasher.finalize())[..16].to_owned())
}
