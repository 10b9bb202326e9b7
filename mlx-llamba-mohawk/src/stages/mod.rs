//! The three stages of MOHAWK, and plain training, as objectives.
//!
//! | stage | part | compares | with the teacher's | given |
//! |---|---|---|---|---|
//! | [`Orientation`] | a layer's mixer | its mixing matrix | attention matrix | the teacher's hidden state |
//! | [`Alignment`] | a layer | its output | hidden state | the teacher's hidden state |
//! | [`Distillation`] | the whole student | its logits | logits | tokens |
//! | [`NextToken`] | any model | its logits | | tokens and their successors |
//!
//! All are computed in float32, by plain MLX operations and those kernels that have gradients; matrices
//! are multiplied in bfloat16 if that is wanted.
//!
//! Source: MOHAWK (arXiv 2408.10189), section 3.

mod alignment;
mod blocks;
mod distance;
mod distillation;
mod head;
mod next_token;
mod orientation;

pub use alignment::Alignment;
pub use distillation::{Distillation, Losses};
pub use next_token::NextToken;
pub use orientation::{Compared, Orientation, Oriented};

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::row_layout::RowLayout;
use mlx_llamba::{Config, Model};
use mlx_rs::error::Exception;

use crate::{Batch, Parameters, Result};

/// Returns the student with these parameters, with gradients, and products in `products`.
fn student(config: &Config, parameters: &Parameters, products: Dtype) -> Result<Model> {
    let backend = Backend::with_gradients()?.with_products(products);
    Ok(Model::from_parameters(config, parameters, Dtype::Float32, backend)?)
}

/// Returns [`student`] of layer `i` alone, as layer 0: a whole model takes the host longer to build than
/// a layer takes a GPU.
fn student_layer(
    config: &Config,
    parameters: &Parameters,
    i: usize,
    products: Dtype,
) -> Result<Model> {
    let (config, parameters) = alone(config, parameters, i)?;
    student(&config, &parameters, products)
}

/// Returns the configuration and the parameters of a student of layer `i` alone, with the rest around it.
fn alone(config: &Config, parameters: &Parameters, i: usize) -> Result<(Config, Parameters)> {
    let mut config = config.clone();
    config.n_layer = 1;
    let own = |name: String| {
        let theirs = name.replacen(".layers.0.", &format!(".layers.{i}."), 1);
        Ok((name, named(parameters, &theirs)?.clone()))
    };
    let parameters =
        config.tensors().into_iter().map(|(name, _)| own(name)).collect::<Result<_>>()?;
    Ok((config, parameters))
}

/// True at the first token of a document.
fn borders(batch: &Batch) -> RowLayout<'_> {
    RowLayout { lengths: None, starts: batch.starts.as_ref() }
}

/// Returns the names of the tensors of layer `i` that belong to `parts`, in alphabetical order.
fn of_layer(config: &Config, i: usize, parts: &[&str]) -> Vec<String> {
    let prefix = format!("backbone.layers.{i}.");
    let wanted = |name: &String| {
        name.strip_prefix(&prefix).is_some_and(|rest| parts.iter().any(|p| rest.starts_with(p)))
    };
    sorted(config.tensors().into_iter().map(|(name, _)| name).filter(wanted))
}

/// Returns a parameter of the student.
fn named<'a>(parameters: &'a Parameters, name: &str) -> Result<&'a mlx_rs::Array> {
    parameters.get(name).ok_or_else(|| crate::Error::unknown(name))
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

/// Returns the constant that part `part` is compared with.
fn target<T>(targets: &[T], part: usize) -> Result<&T> {
    let missing = || Exception::custom(format!("no layer {part} in {} targets", targets.len()));
    Ok(targets.get(part).ok_or_else(missing)?)
}
