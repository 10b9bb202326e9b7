//! Compares tensors with a configuration.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_llamba::error::TensorProblem;
use mlx_llamba::{Error, Result};

use crate::config::LlamaConfig;

/// The error about a missing tensor.
pub(crate) fn missing(path: &Path, name: &str) -> Error {
    let problems = vec![TensorProblem::Missing { name: name.to_owned(), expected: Vec::new() }];
    Error::Tensors { path: path.to_owned(), problems }
}

/// Compares names and shapes with the configuration. The error lists every difference.
pub(crate) fn check_shapes<'n>(
    path: &Path,
    config: &LlamaConfig,
    found: impl Iterator<Item = (&'n str, Vec<usize>)>,
) -> Result<()> {
    let mut found: BTreeMap<&str, Vec<usize>> = found.collect();
    let mut problems = Vec::new();
    for (name, expected) in config.tensors() {
        match found.remove(name.as_str()) {
            None => problems.push(TensorProblem::Missing { name, expected }),
            Some(found) if found != expected => {
                problems.push(TensorProblem::Shape { name, found, expected });
            }
            Some(_) => {}
        }
    }
    problems.extend(found.into_keys().map(|name| TensorProblem::Unknown { name: name.to_owned() }));
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Tensors { path: path.to_owned(), problems })
}
