//! Fixtures and comparisons.

use std::path::PathBuf;

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba_teacher::Llama;
use mlx_rs::Array;
use safetensors::SafeTensors;

pub(crate) const VARIANTS: [&str; 10] = [
    "plain", "biases", "linear", "mistral", "qwen2", "qwen3", "phi3", "phi4", "smollm3", "granite",
];

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn open(name: &str, backend: Backend) -> Llama {
    Llama::open(fixture(name), Dtype::Float32, backend).unwrap()
}

/// Tensors that the generator wrote.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Of a directory.
    pub(crate) fn open(name: &str) -> Self {
        Self(std::fs::read(fixture(name).join("golden.safetensors")).unwrap())
    }

    /// Of a GGUF file.
    pub(crate) fn beside(name: &str) -> Self {
        Self(std::fs::read(fixture(&format!("{name}.golden.safetensors"))).unwrap())
    }

    pub(crate) fn array(&self, name: &str) -> Array {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let shape: Vec<i32> = view.shape().iter().map(|&size| size as i32).collect();
        let (words, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
        Array::from_slice(&values, &shape)
    }

    /// Ids (b, l).
    pub(crate) fn tokens(&self) -> Array {
        self.array("tokens").as_dtype(Dtype::Uint32).unwrap()
    }

    /// Starts of documents (b, l).
    pub(crate) fn starts(&self) -> Array {
        self.array("starts").as_dtype(Dtype::Bool).unwrap()
    }
}

/// Largest difference, relative to the largest expected value.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &Array, expected: &Array, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (found, expected) = (floats(found).unwrap(), floats(expected).unwrap());
    let size = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let bad: Vec<_> = found
        .iter()
        .zip(&expected)
        .enumerate()
        .filter(|(_, (f, e))| {
            let within = (**f - **e).abs() <= tolerance * size;
            !within
        })
        .take(5)
        .collect();
    let worst = found.iter().zip(&expected).fold(0.0_f32, |m, (f, e)| m.max((f - e).abs())) / size;
    assert!(bad.is_empty(), "{what}: {worst} off; (index, (found, expected)) {bad:?}");
}
