//! Identifies models without reading them completely.

use sha2::{Digest, Sha256};

use super::Checkpoint;
use crate::files::{hash, mlx_dtype};

const SAMPLE: usize = 1024;

/// Hashes names, shapes, dtypes and the first, middle and last KiB of every tensor, in the order
/// of their names.
pub(super) fn fingerprint(checkpoint: &Checkpoint) -> String {
    let mut tensors: Vec<_> = checkpoint.tensors().collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        let bytes = tensor.bytes();
        // Every tensor of a checkpoint has a dtype of MLX; saved states rely on this text.
        let dtype = mlx_dtype(tensor.dtype()).unwrap_or(mlx_rs::Dtype::Float32);
        hash.update(format!("{name} {dtype:?} {:?}\n", tensor.shape()));
        let middle = (bytes.len() / 2).saturating_sub(SAMPLE / 2);
        for start in [0, middle, bytes.len().saturating_sub(SAMPLE)] {
            hash.update(&bytes[start..bytes.len().min(start + SAMPLE)]);
        }
    }
    hash::hex(&hash.finalize())
}
