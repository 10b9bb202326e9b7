//! The arguments of a run, its notes on the way, and its result.

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

/// The model that a run trains, and what it learns from apart from the text.
#[derive(Debug, Clone)]
pub enum Task {
    /// Distills a Llamba from a teacher.
    Distill {
        /// A Llama: a directory or a GGUF file.
        teacher: PathBuf,
        /// A tokenizer, if not the teacher's own.
        tokenizer: Option<PathBuf>,
        /// A student to start from, of the recipe's sizes.
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
    /// The model, and its teacher.
    pub task: Task,
    /// Text: files or directories.
    pub data: Vec<PathBuf>,
    /// The directory of the run, which also receives the finished model.
    pub output: PathBuf,
    /// Options, with only the stages to run.
    pub recipe: Recipe,
    /// Resumes the run in `output`.
    pub resume: bool,
    /// Removes the run and the model in `output` before the first step.
    pub overwrite: bool,
    /// The directory for the tokens of the text; by default `output`.
    pub cache: Option<PathBuf>,
    /// The memory in bytes that the run may use, which is refused if it needs more. `None`: no limit.
    pub memory: Option<u64>,
}

impl Job {
    /// Describes a new run that keeps its tokens in `output` and may use any amount of memory.
    #[must_use]
    pub fn new(task: Task, data: Vec<PathBuf>, output: PathBuf, recipe: Recipe) -> Self {
        Self {
            task,
            data,
            output,
            recipe,
            resume: false,
            overwrite: false,
            cache: None,
            memory: None,
        }
    }
}

/// An event of a run. The caller can stop the run at each.
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
        /// Steps already done, and steps of all stages.
        steps: (u64, u64),
    },
    /// The memory and time that the rest of the run needs on this machine, estimated from one window
    /// of each stage.
    Cost(&'a Cost),
    /// The teacher with attention to its last 64 tokens and first 4, untrained, on the held-out text.
    /// A student that is not better is not worth its training.
    Baseline(&'a Metrics),
    /// A step, an evaluation or a checkpoint.
    Train(Event<'a>),
}

/// The result of a run.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Distinguishes a finished run from one that the caller stopped.
    pub ending: Ending,
    /// The last evaluation of this call.
    pub metrics: Option<Metrics>,
}

/// Receives the events of a run; `Break` stops it after a checkpoint.
pub type OnNote<'a> = &'a mut (dyn FnMut(Note<'_>) -> ControlFlow<()> + Send);
