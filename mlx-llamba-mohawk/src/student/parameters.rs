//! Access to parameters and their rows.

use std::path::Path;

use mlx_llamba::error::TensorProblem;
use mlx_rs::Array;

use crate::{Parameters, Result};

/// Returns a parameter of the teacher.
pub(super) fn get<'a>(parameters: &'a Parameters, name: &str) -> Result<&'a Array> {
    parameters.get(name).ok_or_else(|| {
        let problems = vec![TensorProblem::Missing { name: name.to_owned(), expected: Vec::new() }];
        mlx_llamba::Error::Tensors { path: Path::new("the teacher").to_owned(), problems }.into()
    })
}

/// Returns `count` rows of a matrix from row `from` on.
pub(super) fn rows(array: &Array, from: i32, count: i32) -> Result<Array> {
    let parts = mlx_rs::ops::split_at_indices(array, &[from, from + count], 0)?;
    Ok(parts.into_iter().nth(1).unwrap_or_else(|| array.clone()))
}
