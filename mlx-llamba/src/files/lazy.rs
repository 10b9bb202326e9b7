//! Lazy MLX arrays over the bytes of files.

use std::mem::MaybeUninit;

use mlx_llamba_kernels::mlx::{Bytes, lazy_array};
use mlx_rs::Array;
use mlx_rs::error::Result;

use super::StoredTensor;
use super::scan::Scan;

impl Bytes for StoredTensor {
    fn count(&self) -> usize {
        self.bytes().len()
    }

    /// Copies in pieces that are still in the cache when they are checked, then releases the pages.
    fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]) -> usize {
        const PIECE: usize = 1 << 18;
        const RELEASE: usize = 1 << 25;
        let bytes = self.bytes();
        let start = offset.min(bytes.len());
        let end = start.saturating_add(out.len()).min(bytes.len());
        let mut scan = Scan::new(self.dtype(), offset);
        let mut released = start;
        for at in (start..end).step_by(PIECE) {
            let piece = &bytes[at..end.min(at + PIECE)];
            out[at - start..][..piece.len()].write_copy_of_slice(piece);
            scan.feed(piece);
            if at + piece.len() - released >= RELEASE {
                self.release(released..at + piece.len());
                released = at + piece.len();
            }
        }
        self.release(released..end);
        scan.warn(self);
        end - start
    }
}

/// Makes an array that reads `tensor` when it is evaluated, on the CPU.
///
/// The caller has checked that every size fits `i32` and that MLX knows the dtype.
pub(super) fn array(tensor: StoredTensor) -> Result<Array> {
    let (name, dtype) = (tensor.name().to_owned(), tensor.dtype().to_string());
    let shape = tensor.shape().to_vec();
    lazy_array(&name, &dtype, &shape, tensor)
}
