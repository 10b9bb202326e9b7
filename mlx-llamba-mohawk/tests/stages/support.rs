//! Fixtures, gradients and comparisons.

use std::path::PathBuf;

use mlx_llamba::Config;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba_mohawk::{Batch, Objective, Parameters, student};
use mlx_llamba_teacher::Llama;
use mlx_rs::Array;
use mlx_rs::transforms::value_and_grad_with_argnums;
use safetensors::SafeTensors;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stages").join(name)
}

pub(crate) fn teacher(variant: &str) -> Llama {
    let path = fixture(variant).join("teacher");
    Llama::open(path, Dtype::Float32, Backend::PLAIN).unwrap()
}

pub(crate) fn student(variant: &str) -> (Config, Parameters) {
    student::load(fixture(variant).join("student")).unwrap()
}

/// Tensors that the generator wrote.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(variant: &str) -> Self {
        Self(std::fs::read(fixture(variant).join("golden.safetensors")).unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Array> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).ok()?;
        let shape: Vec<i32> = view.shape().iter().map(|&size| size as i32).collect();
        let (words, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        Some(Array::from_slice(&values, &shape))
    }

    /// The batch `short`, which has no document starts, or `long`.
    pub(crate) fn batch(&self, name: &str) -> Batch {
        let array = |part: &str| self.get(&format!("{name}.{part}")).unwrap();
        let ids = |part: &str| array(part).as_dtype(Dtype::Uint32).unwrap();
        let starts = array("starts").as_dtype(Dtype::Bool).unwrap();
        let starts = (name != "short").then_some(starts);
        Batch { tokens: ids("tokens"), next: ids("next"), starts, learned: None }
    }
}

/// The loss of a part, and its gradient by each of `names`.
pub(crate) fn gradients<O: Objective>(
    objective: &O,
    part: usize,
    names: &[String],
    parameters: &Parameters,
    batch: &Batch,
) -> (f64, Parameters) {
    let targets = objective.targets(batch).unwrap();
    let loss = |traced: &[Array]| -> mlx_rs::error::Result<Vec<Array>> {
        let mut all = parameters.clone();
        all.extend(names.iter().cloned().zip(traced.iter().cloned()));
        Ok(vec![objective.loss(part, &all, batch, &targets).unwrap()])
    };
    let arrays: Vec<Array> = names.iter().map(|name| parameters[name].clone()).collect();
    let all: Vec<i32> = (0..arrays.len() as i32).collect();
    let (value, gradients) = value_and_grad_with_argnums(loss, &all[..])(&arrays).unwrap();
    let value = f64::from(floats(&value[0]).unwrap()[0]);
    (value, names.iter().cloned().zip(gradients).collect())
}

/// The largest difference relative to the largest value of `expected`, or of `scale` if that is
/// larger.
pub(crate) fn error(found: &Array, expected: &Array, scale: f64) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (floats(found).unwrap(), floats(expected).unwrap());
    let size = expected.iter().fold(scale, |m, x| m.max(f64::from(x.abs())));
    let differences = found.iter().zip(&expected).map(|(f, e)| f64::from(f - e).abs());
    // A NaN is no small error.
    differences.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { f64::max(m, d) }) / size
}
