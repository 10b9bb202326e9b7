//! The tiny checkpoints in `fixtures/`, with golden values that an implementation must reproduce.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// Fixtures in the published PyTorch layout.
pub const PYTORCH: [&str; 5] = ["a_base", "b_grouped", "c_tied_exp2", "d_silu", "e_padvocab"];
/// Fixtures in Cartesia's MLX layout.
pub const CARTESIA: [&str; 2] = ["m_mlx_f32", "m_mlx_4bit"];

/// Returns the directory of a fixture.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A prompt with its golden results.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Name: `len1`, `len2`, and so on.
    pub name: String,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// The greedy continuation, 32 tokens.
    pub greedy: Vec<u32>,
    /// Logits after every token of the prompt, (length, padded vocabulary).
    pub logits: Tensor,
    /// The last inputs of each layer's convolution, (channels, width), the oldest first.
    pub conv_states: Vec<Tensor>,
    /// Each layer's recurrent state, (h, p, n).
    pub ssm_states: Vec<Tensor>,
}

/// A tensor of a golden file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Shape.
    pub shape: Vec<usize>,
    /// Values, the last axis fastest.
    pub values: Vec<f32>,
}

/// Returns all prompts of a fixture, by length.
pub fn golden(fixture: &str) -> Vec<Golden> {
    let file = path(fixture).join("golden.safetensors");
    let bytes = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("golden.safetensors is sound");
    let floats: HashMap<String, Tensor> = tensors
        .iter()
        .filter(|(_, view)| view.dtype() == Dtype::F32)
        .map(|(name, view)| {
            let (words, _) = view.data().as_chunks::<4>();
            let values = words.iter().map(|&w| f32::from_le_bytes(w)).collect();
            (name.to_owned(), Tensor { shape: view.shape().to_vec(), values })
        })
        .collect();
    let ids = |name: &str| -> Vec<u32> {
        let (words, _) = tensors.tensor(name).expect("present").data().as_chunks::<4>();
        words.iter().map(|&w| u32::from_le_bytes(w)).collect()
    };
    let layers = |name: &str, what: &str| -> Vec<Tensor> {
        (0..).map_while(|i| floats.get(&format!("{name}.layer{i}.{what}")).cloned()).collect()
    };
    let mut prompts: Vec<Golden> = tensors
        .names()
        .iter()
        .filter_map(|name| name.strip_suffix(".tokens"))
        .map(|name| Golden {
            name: name.to_owned(),
            tokens: ids(&format!("{name}.tokens")),
            greedy: ids(&format!("{name}.greedy")),
            logits: floats[&format!("{name}.logits")].clone(),
            conv_states: layers(name, "conv_state"),
            ssm_states: layers(name, "ssm_state"),
        })
        .collect();
    prompts.sort_by(|a, b| (a.tokens.len(), &a.name).cmp(&(b.tokens.len(), &b.name)));
    prompts
}

/// Copies a fixture's checkpoint, without its golden files, to a fresh directory.
pub fn copy(fixture: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for file in ["config.json", "model.safetensors"] {
        let source = path(fixture).join(file);
        if source.exists() {
            std::fs::copy(&source, directory.path().join(file)).expect("copied");
        }
    }
    directory
}

/// Splits a weight file into header and data, lets `edit` change both, and writes them back with the
/// header's new length.
pub fn edit(file: &Path, edit: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) {
    let bytes = std::fs::read(file).expect("readable");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let mut data = bytes[8 + length..].to_vec();
    edit(&mut header, &mut data);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&data);
    std::fs::write(file, out).expect("writable");
}
