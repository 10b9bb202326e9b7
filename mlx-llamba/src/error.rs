//! The errors of the library, one variant per cause.

use std::path::{Path, PathBuf};

/// Result of the library's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library: what was found, where, and what was expected.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// The operation as a verb: "read", "create", "rename".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A JSON file cannot be parsed.
    #[error("{path} is not valid JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The mistake, with line and column.
        source: serde_json::Error,
    },
    /// A configuration does not describe a Llamba; lists every bad field.
    #[error("{path} does not describe a Llamba: {list}", path = path.display(), list = list(problems))]
    Config {
        /// `config.json`, or the safetensors file whose metadata holds the configuration.
        path: PathBuf,
        /// All the bad fields.
        problems: Vec<FieldProblem>,
    },
    /// A safetensors file has a bad header.
    #[error("{path} is not a valid safetensors file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The problem with its header or its length.
        reason: String,
    },
    /// The index of a sharded checkpoint does not match its files; lists every difference.
    #[error("{path} does not match its files: {list}", path = path.display(), list = list(problems))]
    Index {
        /// `model.safetensors.index.json`.
        path: PathBuf,
        /// All the bad entries and files.
        problems: Vec<FieldProblem>,
    },
    /// Tensors are missing, unknown, or of the wrong shape or dtype; lists all of them.
    #[error("{path} does not match its configuration: {list}", path = path.display(), list = list(problems))]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// All the bad tensors.
        problems: Vec<TensorProblem>,
    },
    /// The path holds no checkpoint that this library can read.
    #[error("no Llamba checkpoint at {path}: {reason}", path = path.display())]
    NotACheckpoint {
        /// The directory or file.
        path: PathBuf,
        /// The reason, and what to give instead.
        reason: String,
    },
    /// There is no tokenizer.
    #[error("no tokenizer for {model}: {reason}")]
    TokenizerMissing {
        /// The model that needs one.
        model: String,
        /// The missing part, and what to do.
        reason: String,
    },
    /// A tokenizer cannot be loaded, or cannot encode or decode a text.
    #[error("tokenizer {path}: {reason}", path = path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The tokenizer's message.
        reason: String,
    },
    /// The tokenizer has ids that the model does not know, or far fewer than the model.
    #[error(
        "tokenizer {path} has ids up to {max_id}, but the model's vocabulary has {vocab_size} tokens: \
         it belongs to another model",
        path = path.display()
    )]
    TokenizerMismatch {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The largest id of the tokenizer.
        max_id: u32,
        /// The size of the model's vocabulary, without padding.
        vocab_size: usize,
    },
    /// The tokenizer has no chat template of this name.
    #[error(
        "{tokenizer} has no chat template called {name} (it has: {there}); give a file, or chatml, \
         llama-3 or plain"
    )]
    TemplateMissing {
        /// The `tokenizer.json`.
        tokenizer: String,
        /// The template that was asked for.
        name: String,
        /// The names of its templates.
        there: String,
    },
    /// A chat template cannot be compiled, or rejects a conversation.
    #[error("chat template {name}: {reason}")]
    Template {
        /// Its name or file.
        name: String,
        /// The template's message and its line.
        reason: String,
    },
    /// A session cannot do this.
    #[error("{reason}")]
    Session {
        /// The reason.
        reason: String,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its position in the prompt, from 0.
        position: usize,
        /// The size of the vocabulary, without padding.
        vocab_size: usize,
    },
    /// The model cannot read a longer text.
    #[error("the text cannot grow past {longest} tokens: {reason}")]
    TooLong {
        /// The largest number of tokens.
        longest: usize,
        /// The reason, and what to do.
        reason: String,
    },
    /// There is neither a prompt nor a state to continue.
    #[error("the prompt has no tokens and there is no state to continue")]
    EmptyPrompt,
    /// An argument, an option or an environment variable has an invalid value.
    #[error("{name} = {value}: expected {expected}")]
    Argument {
        /// The name, as the library or the environment spells it.
        name: &'static str,
        /// The value.
        value: String,
        /// The legal values.
        expected: String,
    },
    /// A grammar cannot constrain a text.
    #[error("{kind}: {reason}")]
    Constraint {
        /// The kind of grammar: "JSON schema", "regular expression", ...
        kind: &'static str,
        /// The problem, with its place where it is known.
        reason: String,
    },
    /// A repository cannot be downloaded.
    #[error("{repo}: {reason}")]
    Hub {
        /// The repository, `owner/name`.
        repo: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// A saved state or session cannot be used.
    #[error("state {path}: {reason}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// The reason: damaged, of another model, of another version.
        reason: String,
    },
    /// Arrays have the wrong shape.
    #[error(transparent)]
    Shape(#[from] mlx_llamba_kernels::ShapeError),
    /// A weight cannot be quantized or dequantized.
    #[error("tensor {tensor}: {source}")]
    Quantization {
        /// The weight.
        tensor: String,
        /// The reason.
        source: mlx_llamba_kernels::QuantizationError,
    },
    /// Some matrices do not fit the scheme; lists all of them.
    #[error("cannot quantize {path} in this scheme: {list}; try another group size, or overrides that keep these matrices dense", path = path.display(), list = list(problems))]
    NotQuantizable {
        /// The checkpoint.
        path: PathBuf,
        /// All the matrices that do not fit.
        problems: Vec<TensorProblem>,
    },
    /// The checkpoint is quantized: quantizing it again loses more than quantizing the original.
    #[error("{path} is quantized already ({bits} bits); quantize the original, or allow requantizing", path = path.display())]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// Bits of its first quantized matrix.
        bits: usize,
    },
    /// A progress callback stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// The output already exists.
    #[error("{path} exists already; choose another output or allow overwriting", path = path.display())]
    OutputExists {
        /// The directory or file.
        path: PathBuf,
    },
    /// An operation of MLX failed.
    #[error("MLX: {}", mlx_llamba_kernels::mlx::reason(.0))]
    Mlx(#[from] mlx_rs::error::Exception),
    /// No back end can be selected.
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

/// A field of a configuration with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, expected {expected}")]
pub struct FieldProblem {
    /// The dotted name of the field.
    pub field: String,
    /// The value, or "missing".
    pub found: String,
    /// The legal values.
    pub expected: String,
}

/// A tensor that does not match the configuration.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// The configuration requires it, but no file has it.
    #[error("{name} is missing (expected shape {expected:?})")]
    Missing {
        /// Name in the checkpoint's own layout.
        name: String,
        /// The shape that the configuration requires.
        expected: Vec<usize>,
    },
    /// A file has it, but the configuration does not.
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
        /// The shape that the configuration requires.
        expected: Vec<usize>,
    },
    /// Wrong dtype.
    #[error("{name} has dtype {found}, expected {expected}")]
    Dtype {
        /// Name in the checkpoint's own layout.
        name: String,
        /// Dtype in the file, as safetensors spells it.
        found: String,
        /// The legal dtypes.
        expected: String,
    },
    /// Its quantization is impossible.
    #[error("{name}: {reason}")]
    Scheme {
        /// Name in the checkpoint's own layout.
        name: String,
        /// The problem.
        reason: String,
    },
}

/// Text from a file for use in a message: control characters are escaped, and long text is cut.
pub(crate) fn printable(name: &str) -> String {
    const SHOWN: usize = 120;
    let mut text: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN).is_some() {
        text.push_str("...");
    }
    text
}

/// Joins the first problems into one line for a message. A model with the wrong configuration has
/// thousands; the error's field has all of them.
pub fn list<T: std::fmt::Display>(problems: &[T]) -> String {
    const SHOWN: usize = 12;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(T::to_string).collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more", problems.len() - SHOWN));
    }
    lines.join("; ")
}
