//! The arguments of a run, what it tells on the way, and its result.

use std::ops::ControlFlow;
use std::path::PathBuf;

use derive_setters::Setters;
use mlx_llamba::progress::Progress;

use super::Cost;
use crate::evaluate::Metrics;
use crate::recipe::Recipe;
use crate::train::{Ending, Event};

/// The kind of model that a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Transformer.
    Llama,
    /// A recurrent model.
    Llamba,
}

/// The model that a run trains, and what it learns from beside text.
#[derive(Debug, Clone)]
pub enum Task {
    /// Distills a Llamba from a teacher.
    Distill {
        /// A Llama: a directory or a GGUF file.
        teacher: PathBuf,
        /// A tokenizer, if not the teacher's own.
        tokenizer: Option<PathBuf>,
        /// A student to begin with, of the recipe's sizes.
        student: Option<PathBuf>,
    },
    /// Trains a model from random parameters.
    Train {
        /// The kind of model.
        kind: Kind,
        /// A `tokenizer.json`, or a directory with one.
        tokenizer: PathBuf,
    },
}

/// The arguments of a run.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
#[setters(strip_option)]
pub struct Job {
    /// The model, and what it learns from.
    pub task: Task,
    /// Text: a file or a directory.
    pub data: PathBuf,
    /// The directory of the run, which also receives the finished model.
    pub output: PathBuf,
    /// Options, with the stages that run and no others.
    pub recipe: Recipe,
    /// Resumes the run in `output`.
    pub resume: bool,
    /// The directory for the tokens of the text; `output` if `None`.
    pub cache: Option<PathBuf>,
    /// Bytes of memory that the run may use; it is refused if it needs more. `None`: no limit.
    pub memory: Option<u64>,
}

impl Job {
    /// A run that begins, caches nothing elsewhere, and may use any amount of memory.
    #[must_use]
    pub fn new(task: Task, data: PathBuf, output: PathBuf, recipe: Recipe) -> Self {
        Self { task, data, output, recipe, resume: false, cache: None, memory: None }
    }
}

/// Progress of a run, at which the caller can stop it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// Text is being tokenized, in bytes.
    Tokenizing(Progress<'a>),
    /// Training is about to begin or to resume.
    Begins {
        /// A description of the model in one line.
        model: String,
        /// Tokens of the training text, and held-out tokens that evaluations read.
        tokens: (u64, u64),
        /// Steps that are done, and in all stages.
        steps: (u64, u64),
    },
    /// The memory and time that the rest of the run takes on this machine, estimated from one
    /// window of each stage.
    Cost(&'a Cost),
    /// The teacher with attention to its last 64 tokens and first 4, untrained, on the held-out
    /// text: a student has to be better than this to be worth its training.
    Baseline(&'a Metrics),
    /// A step, an evaluation or a checkpoint.
    Train(Event<'a>),
}

/// The result of a run.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Tells a finished run from one that the caller stopped.
    pub ending: Ending,
    /// The last evaluation of this call.
    pub metrics: Option<Metrics>,
}

/// Receives the progress of a run.
pub type OnNote<'a> = &'a mut (dyn FnMut(Note<'_>) -> ControlFlow<()> + Send);
