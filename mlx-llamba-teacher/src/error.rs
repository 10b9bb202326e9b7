//! The errors of reading and running a teacher.

use std::path::PathBuf;

use mlx_llamba::error::{FieldProblem, list};

/// Result of the crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refused file, or an error of the library or of MLX.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model's family is not supported, or the model is no Transformer.
    #[error(
        "{path}: the architecture {found} is not supported: {reason}. Models are llamba; llama, \
         mistral, qwen2, qwen3, phi3, smollm3 and granite as teachers",
        path = path.display()
    )]
    Architecture {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// The name that it has in the file.
        found: String,
        /// The reason.
        reason: &'static str,
    },
    /// A configuration cannot describe a Llama; lists every bad field.
    #[error("{path} does not describe a Llama: {list}", path = path.display(), list = list(problems))]
    Config {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// All the bad fields.
        problems: Vec<FieldProblem>,
    },
    /// A GGUF file is damaged or hostile.
    #[error("{path} is not a sound GGUF file: {reason}", path = path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// A tensor has a type that cannot be read.
    #[error("{path}: tensor {tensor} is stored as {found}; F32, F16, BF16, Q4_0, Q4_1, Q8_0 and Q2_K to Q6_K are read", path = path.display())]
    GgufType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A GGUF file has a tokenizer of an unknown kind.
    #[error("the tokenizer in {path} is {found}, expected {expected}; give another with --tokenizer", path = path.display())]
    TokenizerKind {
        /// The file.
        path: PathBuf,
        /// The kind in the file.
        found: String,
        /// The kinds that are read.
        expected: &'static str,
    },
    /// Loading, tokenizing or generating failed.
    #[error(transparent)]
    Llamba(#[from] mlx_llamba::Error),
    /// MLX refused an operation.
    #[error("MLX: {}", mlx_llamba_kernels::mlx::reason(.0))]
    Mlx(#[from] mlx_rs::error::Exception),
}
