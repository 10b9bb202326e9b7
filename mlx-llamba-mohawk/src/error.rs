//! The errors of data, recipes and training, one variant per cause.

use std::path::{Path, PathBuf};

use mlx_llamba::units;

/// Result of the crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of data, recipes, runs or models: its place, and what was expected there.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to train on.
    #[error("{path} has no documents: {reason}", path = path.display())]
    NoDocuments {
        /// The file or directory.
        path: PathBuf,
        /// The kinds of files that were looked for.
        reason: &'static str,
    },
    /// A document cannot be read.
    #[error("{path}{line}: {reason}", path = path.display(), line = line.map_or(String::new(), |n| format!(", line {n}")))]
    Document {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1, if it has a document in each.
        line: Option<usize>,
        /// The problem.
        reason: String,
    },
    /// The training text is shorter than a window.
    #[error(
        "the training text has {} beside the held-out ones; one window needs {needed}: give more text, or a smaller length",
        units::count(*tokens, "token")
    )]
    TooLittleData {
        /// Tokens of the text.
        tokens: u64,
        /// Tokens of a window and the one after it.
        needed: u64,
    },
    /// The training text has too many windows to number them.
    #[error("the training text has {tokens} tokens, too many for windows of {length}: split it")]
    TooMuchData {
        /// Tokens of the text.
        tokens: u64,
        /// Tokens of a window.
        length: usize,
    },
    /// The tokenizer lacks the token that documents are to begin or end with.
    #[error("the tokenizer has no token {token:?}")]
    UnknownToken {
        /// The token.
        token: String,
    },
    /// The responses of a conversation cannot be told from the rest.
    #[error(
        "template {template} shows a message differently before and after the next one, so that its \
         responses have no fixed place: data.learned = \"all\" learns all of the conversation"
    )]
    Responses {
        /// The template.
        template: String,
    },
    /// A file of tokens is damaged or of another version.
    #[error("tokens {path}: {reason}", path = path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// An objective trains a parameter that the model does not have.
    #[error("the model has no parameter {name}")]
    UnknownParameter {
        /// The parameter.
        name: String,
    },
    /// Two parts of an objective train the same parameter.
    #[error("parameter {name} is trained by two parts; parts must share none")]
    TrainedTwice {
        /// The parameter.
        name: String,
    },
    /// All parameters of a stage are frozen.
    #[error("stage {stage} has nothing to train: all its parameters are frozen")]
    NothingToTrain {
        /// The stage.
        stage: String,
    },
    /// A loss or gradient is not finite.
    #[error(
        "the {what} is {value} in stage {stage}, step {step}, part {part} ({parameter} ...); the last checkpoint is good: a smaller lr or clip, or a longer warm-up, may help"
    )]
    NotFinite {
        /// The loss, or the norm of its gradient.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The stage.
        stage: String,
        /// The step of the stage, counted from 1.
        step: u64,
        /// The part of the objective, counted from 0.
        part: usize,
        /// The first parameter that it trains.
        parameter: String,
    },
    /// The loss exploded.
    #[error(
        "the loss is {loss}, far above the previous losses (median {median}), in stage {stage}, step {step}, part {part} ({parameter} ...); the last checkpoint is good: a smaller lr or clip, or a longer warm-up, may help"
    )]
    Exploded {
        /// The loss.
        loss: f32,
        /// The median of the previous losses.
        median: f32,
        /// The stage.
        stage: String,
        /// The step of the stage, counted from 1.
        step: u64,
        /// The part of the objective, counted from 0.
        part: usize,
        /// The first parameter that it trains.
        parameter: String,
    },
    /// A saved run cannot be used.
    #[error("checkpoint {path}: {reason}", path = path.display())]
    Checkpoint {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The run to resume has other options or data.
    #[error("the run in {path} differs from this one: {list}", path = path.display(), list = differences.join("; "))]
    OtherRun {
        /// The run's directory.
        path: PathBuf,
        /// The differences: key, old value, new value.
        differences: Vec<String>,
    },
    /// A text without a prompt would have no first token.
    #[error(
        "the tokenizer has no token that begins a text: name one with --begin, or give --prompts"
    )]
    NoBeginning,
    /// The directory holds a run already.
    #[error("{path} holds a run already; resume it, overwrite it, or choose another output", path = path.display())]
    RunExists {
        /// The run's directory.
        path: PathBuf,
    },
    /// Another process trains in the directory.
    #[error("another process trains in {path}: wait for it, or choose another output", path = path.display())]
    Busy {
        /// The run's directory.
        path: PathBuf,
    },
    /// The directory holds no run to resume.
    #[error("{path} holds no run to resume: none was begun, or it ended before its first checkpoint; begin without resuming", path = path.display())]
    NothingToResume {
        /// The directory.
        path: PathBuf,
    },
    /// A window is longer than the texts that the teacher was trained on.
    #[error(
        "stage {stage}: length {length} is more than the teacher's context of {context} tokens"
    )]
    TooLong {
        /// The stage.
        stage: String,
        /// Tokens of a window.
        length: usize,
        /// `max_position_embeddings` of the teacher.
        context: usize,
    },
    /// The student to begin with does not have the recipe's sizes.
    #[error("the student in {path} does not have the sizes that the recipe asks for", path = path.display())]
    OtherStudent {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A recipe is wrong.
    #[error("{origin}, {key}: {reason}")]
    Recipe {
        /// The file, or the recipe's name.
        origin: String,
        /// The key, or the line.
        key: String,
        /// The problem.
        reason: String,
    },
    /// There is no recipe of that name.
    #[error("no recipe is called {name:?}; there are {}", crate::recipe::RECIPES.map(|(name, _)| name).join(", "))]
    UnknownRecipe {
        /// The name.
        name: String,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw the plot: {reason}")]
    Plot {
        /// The drawing library's message.
        reason: String,
    },
    /// Loading, tokenizing or running a model failed.
    #[error(transparent)]
    Llamba(#[from] mlx_llamba::Error),
    /// A teacher's file was refused.
    #[error(transparent)]
    Teacher(mlx_llamba_teacher::Error),
    /// MLX refused an operation.
    #[error("MLX: {}", mlx_llamba_kernels::mlx::reason(.0))]
    Mlx(#[from] mlx_rs::error::Exception),
    /// A run needs more memory than there is.
    #[error(
        "the run needs about {} of memory, and {} are available: a smaller micro_batch or length, \
         or recompute = true in [distillation], needs less",
        units::bytes(*needed), units::bytes(*available)
    )]
    DoesNotFit {
        /// Bytes that the run takes at its peak.
        needed: u64,
        /// Bytes that are available.
        available: u64,
    },
    /// No Llamba can take the place of this teacher.
    #[error("no Llamba has the teacher's sizes: {field} is {found}, expected {expected}")]
    NoStudent {
        /// The size.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values that a Llamba can have.
        expected: String,
    },
    /// Quantized parameters cannot be trained.
    #[error("{path} is quantized: training needs the dense model", path = path.display())]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
    },
}

/// Makes an [`Io`](mlx_llamba::Error::Io) of the system's answer to `action` (a verb) on `path`.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let error = mlx_llamba::Error::io(action, path);
    |source| Error::Llamba(error(source))
}

/// Errors of the library and of MLX keep their variants, whichever crate met them.
impl From<mlx_llamba_teacher::Error> for Error {
    fn from(error: mlx_llamba_teacher::Error) -> Self {
        match error {
            mlx_llamba_teacher::Error::Llamba(error) => Self::Llamba(error),
            mlx_llamba_teacher::Error::Mlx(error) => Self::Mlx(error),
            other => Self::Teacher(other),
        }
    }
}

impl Error {
    pub(crate) fn unknown(name: &str) -> Self {
        Self::UnknownParameter { name: name.to_owned() }
    }
}
