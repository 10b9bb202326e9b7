//! Llamba recurrent language models on Apple's MLX.

mod error;

pub use error::{Error, FieldProblem, Result, TensorProblem};
