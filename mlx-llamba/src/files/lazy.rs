//! Lazy MLX arrays over the bytes of files.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use mlx_llamba_kernels::mlx::{Bytes, lazy_array};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::scan::Scan;
use super::source::Source;

/// A tensor of a file.
pub(crate) struct Tensor {
    /// Canonical name, for messages.
    pub(crate) name: String,
    /// As safetensors spells it.
    pub(crate) dtype: safetensors::Dtype,
    pub(crate) shape: Vec<usize>,
    /// Position of its bytes in `source`.
    pub(crate) range: Range<usize>,
    pub(crate) source: Arc<Source>,
}

impl Bytes for Tensor {
    fn count(&self) -> usize {
        self.range.len()
    }

    /// Copies in pieces that are still in the cache when they are checked, then releases the pages.
    fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]) -> usize {
        const PIECE: usize = 1 << 18;
        const RELEASE: usize = 1 << 25;
        let Self { range, source, .. } = self;
        let start = range.start.saturating_add(offset).min(range.end);
        let end = start.saturating_add(out.len()).min(range.end);
        let mut scan = Scan::new(self.dtype, offset);
        let mut released = start;
        for at in (start..end).step_by(PIECE) {
            let piece = &source.bytes()[at..end.min(at + PIECE)];
            out[at - start..][..piece.len()].write_copy_of_slice(piece);
            scan.feed(piece);
            if at + piece.len() - released >= RELEASE {
                source.release(released..at + piece.len());
                released = at + piece.len();
            }
        }
        source.release(released..end);
        scan.warn(&source.path, &self.name);
        end - start
    }
}

/// Makes an array that reads `tensor` when it is evaluated, on the CPU.
///
/// The caller has checked that the range lies in the source, that its length fits shape and
/// dtype, that every size fits `i32`, and that MLX knows the dtype.
pub(crate) fn array(tensor: Tensor) -> Result<Array> {
    let (name, dtype, shape) =
        (tensor.name.clone(), tensor.dtype.to_string(), tensor.shape.clone());
    lazy_array(&name, &dtype, &shape, tensor)
}
