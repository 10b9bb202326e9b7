//! Everything that can go wrong, one variant per cause.

use std::path::{Path, PathBuf};

/// Result of the library's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what was expected there.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: "read", "create", "rename".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A JSON file does not parse.
    #[error("{path} is not valid JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line and column.
        source: serde_json::Error,
    },
    /// A configuration cannot describe a Llamba; lists every bad field.
    #[error("{path} does not describe a Llamba: {list}", path = path.display(), list = list(problems))]
    Config {
        /// `config.json`, or the safetensors file whose metadata holds the configuration.
        path: PathBuf,
        /// All the bad fields.
        problems: Vec<FieldProblem>,
    },
    /// A safetensors header is damaged or hostile.
    #[error("{path} is not a sound safetensors file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header or length.
        reason: String,
    },
    /// The index of a sharded checkpoint is wrong; lists everything that is.
    #[error("{path} does not fit its files: {list}", path = path.display(), list = list(problems))]
    Index {
        /// `model.safetensors.index.json`.
        path: PathBuf,
        /// All the bad entries and files.
        problems: Vec<FieldProblem>,
    },
    /// Tensors are missing, unknown, or of the wrong shape or dtype; lists all of them.
    #[error("{path} does not fit its configuration: {list}", path = path.display(), list = list(problems))]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// All the bad tensors.
        problems: Vec<TensorProblem>,
    },
    /// The path holds no checkpoint that this library reads.
    #[error("no Llamba checkpoint at {path}: {reason}", path = path.display())]
    NotACheckpoint {
        /// The directory or file.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// No tokenizer was found, or it cannot be had.
    #[error("no tokenizer for {model}: {reason}")]
    TokenizerMissing {
        /// The model that needs one.
        model: String,
        /// What was tried, and what to do.
        reason: String,
    },
    /// A tokenizer file does not load or fails on a text.
    #[error("tokenizer {path}: {reason}", path = path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The tokenizer's own message.
        reason: String,
    },
    /// The tokenizer knows ids that the model has no embedding for.
    #[error(
        "tokenizer {path} has ids up to {max_id}, but the model's vocabulary has {vocab_size} entries: \
         it belongs to another model",
        path = path.display()
    )]
    TokenizerMismatch {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// Largest id of the tokenizer.
        max_id: u32,
        /// Entries of the model's vocabulary, without padding.
        vocab_size: usize,
    },
    /// The tokenizer has no chat template of that name.
    #[error(
        "{tokenizer} has no chat template called {name} (it has: {there}); give one: a file, or \
         chatml, llama-3 or plain"
    )]
    TemplateMissing {
        /// The `tokenizer.json`.
        tokenizer: String,
        /// The template that was asked for.
        name: String,
        /// The names of those it has.
        there: String,
    },
    /// A chat template does not compile, or refuses a conversation.
    #[error("chat template {name}: {reason}")]
    Template {
        /// Its name or file.
        name: String,
        /// The template's own complaint, and its line.
        reason: String,
    },
    /// A session cannot do what was asked of it.
    #[error("{reason}")]
    Session {
        /// Why not.
        reason: String,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its place in the prompt, counted from 0.
        position: usize,
        /// Entries of the vocabulary, without padding.
        vocab_size: usize,
    },
    /// The model cannot read on.
    #[error("the text cannot grow past {longest} tokens: {reason}")]
    TooLong {
        /// Tokens that it can have.
        longest: usize,
        /// Why, and what to do.
        reason: String,
    },
    /// There is nothing to continue: no token was ever given.
    #[error("the prompt has no tokens and there is no state to continue")]
    EmptyPrompt,
    /// An option's value makes no sense.
    #[error("{option} = {value}: expected {expected}")]
    Option {
        /// Name of the option, as the library spells it.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The hub could not deliver.
    #[error("{repo}: {reason}")]
    Hub {
        /// Repository, as `owner/name`.
        repo: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// A saved state cannot be used here.
    #[error("state {path}: {reason}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why: damaged, of another model, of another version.
        reason: String,
    },
    /// Arrays given to the model have the wrong shape.
    #[error(transparent)]
    Shape(#[from] mlx_llamba_kernels::ShapeError),
    /// A weight cannot be quantized or read as asked.
    #[error("tensor {tensor}: {source}")]
    Quantization {
        /// The weight.
        tensor: String,
        /// Why.
        source: mlx_llamba_kernels::QuantizationError,
    },
    /// Some matrices cannot be quantized as asked; lists all of them.
    #[error("cannot quantize {path} like this: {list}; another group size may fit, or an override that keeps them dense", path = path.display(), list = list(problems))]
    NotQuantizable {
        /// The checkpoint.
        path: PathBuf,
        /// All the matrices that do not fit.
        problems: Vec<TensorProblem>,
    },
    /// Quantizing what is quantized loses more than quantizing the original.
    #[error("{path} is quantized already ({bits} bits); quantize the original, or ask for requantizing", path = path.display())]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// Bits of its first quantized matrix.
        bits: usize,
    },
    /// The caller's callback asked to stop. Nothing was left behind.
    #[error("interrupted")]
    Interrupted,
    /// The output already exists.
    #[error("{path} exists already; choose another output or allow overwriting", path = path.display())]
    OutputExists {
        /// The directory or file.
        path: PathBuf,
    },
    /// MLX refused an operation.
    #[error("MLX: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// No back end can be chosen.
    #[error(transparent)]
    Backend(#[from] mlx_llamba_kernels::BackendError),
}

impl Error {
    /// Makes an [`Error::Io`] of the system's answer to `action` (a verb) on `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl From<mlx_llamba_kernels::MixerError> for Error {
    fn from(error: mlx_llamba_kernels::MixerError) -> Self {
        match error {
            mlx_llamba_kernels::MixerError::Shape(error) => Self::Shape(error),
            mlx_llamba_kernels::MixerError::Mlx(error) => Self::Mlx(error),
        }
    }
}

/// A field of a configuration with an impossible value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct FieldProblem {
    /// Dotted name of the field.
    pub field: String,
    /// What stands there ("missing" if nothing).
    pub found: String,
    /// What is allowed.
    pub expected: String,
}

/// A tensor that does not fit.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// The configuration asks for it, no file has it.
    #[error("{name} is missing (expected shape {expected:?})")]
    Missing {
        /// Name in the checkpoint's own layout.
        name: String,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A file has it, nothing uses it.
    #[error("{name} is not part of this model")]
    Unknown {
        /// Name in the checkpoint's own layout.
        name: String,
    },
    /// Wrong shape.
    #[error("{name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name in the checkpoint's own layout.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// Wrong dtype.
    #[error("{name} has dtype {found}, expected {expected}")]
    Dtype {
        /// Name in the checkpoint's own layout.
        name: String,
        /// Dtype in the file, as safetensors spells it.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// It is quantized in a way that cannot be.
    #[error("{name}: {reason}")]
    Scheme {
        /// Name in the checkpoint's own layout.
        name: String,
        /// What does not fit.
        reason: String,
    },
}

/// A name out of a file, fit for a message: files may hold terminal codes and whole novels.
pub(crate) fn printable(name: &str) -> String {
    const SHOWN: usize = 120;
    let mut text: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN).is_some() {
        text.push_str("...");
    }
    text
}

/// Joins problems into one readable line. The error's own list has all of them; a model with the
/// wrong configuration has thousands, and nobody reads more than the first.
fn list<T: std::fmt::Display>(problems: &[T]) -> String {
    const SHOWN: usize = 12;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(T::to_string).collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more", problems.len() - SHOWN));
    }
    lines.join("; ")
}
