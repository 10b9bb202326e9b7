//! Everything that can go wrong, one variant per cause.

use std::path::PathBuf;

use mlx_llamba::FieldProblem;

/// Result of the crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what was expected there.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Loading, tokenizing or running a Llamba failed.
    #[error(transparent)]
    Llamba(#[from] mlx_llamba::Error),
    /// MLX refused an operation.
    #[error("MLX: {0}")]
    Mlx(#[from] mlx_rs::error::Exception),
    /// The model is a Transformer of another kind, or no Transformer.
    #[error("{path} is a {found} model; teachers are of the architecture llama", path = path.display())]
    Architecture {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// What it calls itself.
        found: String,
    },
    /// A configuration cannot describe a Llama; lists every bad field.
    #[error("{path} does not describe a Llama: {list}", path = path.display(), list = list(problems))]
    Config {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// All the bad fields.
        problems: Vec<FieldProblem>,
    },
    /// No Llamba can take the place of this teacher.
    #[error("no Llamba has the teacher's sizes: {field} is {found}, expected {expected}")]
    NoStudent {
        /// The size.
        field: &'static str,
        /// Its value.
        found: String,
        /// What a Llamba needs.
        expected: String,
    },
    /// Quantized parameters cannot be trained.
    #[error("{path} is quantized: training needs the dense model", path = path.display())]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
    },
}

/// Joins problems into one readable line.
fn list<T: std::fmt::Display>(problems: &[T]) -> String {
    const SHOWN: usize = 12;
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(T::to_string).collect();
    if problems.len() > SHOWN {
        lines.push(format!("and {} more", problems.len() - SHOWN));
    }
    lines.join("; ")
}
