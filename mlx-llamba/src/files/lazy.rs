//! Lazy MLX arrays over bytes that stay where they are.
//!
//! MLX reads a tensor through a table of callbacks when the
//! array is first evaluated, from a thread of its own. It is given a file that does not exist: a
//! safetensors header with this one tensor, written here, and then the tensor's bytes.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use super::scan::Scan;
use super::source::Source;

/// One tensor as MLX is to see it.
pub(crate) struct Tensor {
    /// Canonical name, for messages.
    pub(crate) name: String,
    /// As safetensors spells it.
    pub(crate) dtype: safetensors::Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in `source`.
    pub(crate) range: Range<usize>,
    pub(crate) source: Arc<Source>,
}

/// The name of the only tensor in the header that MLX sees.
const NAME: &CStr = c"t";

/// What MLX's callbacks get: owned by MLX from `mlx_io_reader_new` until it calls [`free`].
struct Reader {
    header: Vec<u8>,
    tensor: Tensor,
    label: CString,
    position: AtomicUsize,
}

impl Reader {
    fn new(tensor: Tensor) -> Self {
        let (dtype, shape, bytes) = (tensor.dtype, &tensor.shape, tensor.range.len());
        let json = format!(
            r#"{{"t":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{bytes}]}}}}"#
        );
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        let label = CString::new(tensor.name.clone()).unwrap_or_default();
        Self { header, tensor, label, position: AtomicUsize::new(0) }
    }

    fn len(&self) -> usize {
        self.header.len() + self.tensor.range.len()
    }

    /// Copies from `offset` until `out` is full or the bytes end; gives the number copied.
    fn copy(&self, out: *mut u8, wanted: usize, offset: usize) -> usize {
        let mut done = 0;
        if let Some(header) = self.header.get(offset..) {
            done = wanted.min(header.len());
            // SAFETY: MLX gives `wanted` writable bytes at `out`, and `done` is at most that and
            // at most the header's rest; fresh memory does not overlap the header.
            unsafe { std::ptr::copy_nonoverlapping(header.as_ptr(), out, done) };
        }
        if done < wanted {
            // SAFETY: `done` bytes at `out` were counted against `wanted` above.
            let out = unsafe { out.add(done) };
            done += self.copy_data(out, wanted - done, offset + done - self.header.len());
        }
        done
    }

    /// The same for the tensor's own bytes, in pieces that stay in the cache while they are
    /// looked through; then lets go of the pages.
    fn copy_data(&self, out: *mut u8, wanted: usize, offset: usize) -> usize {
        const PIECE: usize = 1 << 18;
        const RELEASE: usize = 1 << 25;
        let Tensor { range, source, .. } = &self.tensor;
        let start = range.start.saturating_add(offset).min(range.end);
        let end = start.saturating_add(wanted).min(range.end);
        let mut scan = Scan::new(self.tensor.dtype, offset);
        let mut released = start;
        for at in (start..end).step_by(PIECE) {
            let piece = &source.bytes()[at..end.min(at + PIECE)];
            // SAFETY: MLX gives `wanted` writable bytes at `out`, and `at - start + piece.len()`
            // is at most `end - start`, which is at most `wanted`.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), out.add(at - start), piece.len());
            }
            scan.feed(piece);
            if at + piece.len() - released >= RELEASE {
                source.release(released..at + piece.len());
                released = at + piece.len();
            }
        }
        source.release(released..end);
        scan.warn(&source.path, &self.tensor.name);
        end - start
    }
}

/// The reader behind a callback's pointer.
///
/// # Safety
/// `context` must come from [`array`] and [`free`] must not have been called on it.
unsafe fn reader<'a>(context: *mut c_void) -> &'a Reader {
    // SAFETY: as the caller promises; callbacks only share the reader.
    unsafe { &*context.cast::<Reader>() }
}

/// A panic must not reach C++.
fn guard<T>(fallback: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(fallback)
}

extern "C" fn ready(_: *mut c_void) -> bool {
    true
}

extern "C" fn tell(context: *mut c_void) -> usize {
    // SAFETY: MLX passes the pointer it was given, before `free`.
    unsafe { reader(context) }.position.load(Ordering::Relaxed)
}

extern "C" fn seek(context: *mut c_void, offset: i64, whence: c_int) -> c_int {
    // SAFETY: MLX passes the pointer it was given, before `free`.
    let reader = unsafe { reader(context) };
    // The C library's SEEK_SET, SEEK_CUR and SEEK_END.
    let base = match whence {
        0 => 0,
        1 => reader.position.load(Ordering::Relaxed) as i64,
        2 => reader.len() as i64,
        _ => return -1,
    };
    match base.checked_add(offset).and_then(|to| usize::try_from(to).ok()) {
        Some(to) if to <= reader.len() => {
            reader.position.store(to, Ordering::Relaxed);
            0
        }
        _ => -1,
    }
}

extern "C" fn read(context: *mut c_void, out: *mut c_char, wanted: usize) -> usize {
    // SAFETY: MLX passes the pointer it was given, before `free`.
    let reader = unsafe { reader(context) };
    let position = reader.position.load(Ordering::Relaxed);
    let done = guard(0, || reader.copy(out.cast(), wanted, position));
    reader.position.store(position + done, Ordering::Relaxed);
    done
}

extern "C" fn read_at(context: *mut c_void, out: *mut c_char, wanted: usize, at: usize) -> usize {
    // SAFETY: MLX passes the pointer it was given, before `free`.
    let reader = unsafe { reader(context) };
    guard(0, || reader.copy(out.cast(), wanted, at))
}

extern "C" fn write(_: *mut c_void, _: *const c_char, _: usize) -> usize {
    0
}

extern "C" fn label(context: *mut c_void) -> *const c_char {
    // SAFETY: MLX passes the pointer it was given, before `free`; the label lives as long.
    unsafe { reader(context) }.label.as_ptr()
}

extern "C" fn free(context: *mut c_void) {
    guard((), || {
        // SAFETY: MLX calls this once, when nothing reads from the reader any more; the pointer
        // came from `Box::into_raw`.
        drop(unsafe { Box::from_raw(context.cast::<Reader>()) });
    });
}

/// Handles that `array` frees whatever happens.
struct Handles {
    arrays: mlx_sys::mlx_map_string_to_array,
    metadata: mlx_sys::mlx_map_string_to_string,
    reader: mlx_sys::mlx_io_reader,
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: the three handles are owned by `self` and freed once. Lazy arrays keep what
        // they need of the reader.
        unsafe {
            mlx_sys::mlx_map_string_to_array_free(self.arrays);
            mlx_sys::mlx_map_string_to_string_free(self.metadata);
            mlx_sys::mlx_io_reader_free(self.reader);
        }
    }
}

/// An array that reads `tensor` when it is evaluated, on the CPU.
///
/// The caller has checked that the range lies in the source, that its length fits shape and
/// dtype, that every size fits `i32`, and that MLX knows the dtype.
pub(crate) fn array(tensor: Tensor) -> Result<Array> {
    // The first call of mlx-rs installs an error handler that does not end the process.
    mlx_rs::memory::active_memory()?;
    let stream = Stream::cpu();
    let vtable = mlx_sys::mlx_io_vtable {
        is_open: Some(ready),
        good: Some(ready),
        tell: Some(tell),
        seek: Some(seek),
        read: Some(read),
        read_at_offset: Some(read_at),
        write: Some(write),
        label: Some(label),
        free: Some(free),
    };
    let name = tensor.name.clone();
    let context = Box::into_raw(Box::new(Reader::new(tensor)));
    // SAFETY: the two constructors take nothing; the reader takes over `context`, which is valid
    // until MLX calls `free` on it.
    let mut handles = unsafe {
        Handles {
            arrays: mlx_sys::mlx_map_string_to_array_new(),
            metadata: mlx_sys::mlx_map_string_to_string_new(),
            reader: mlx_sys::mlx_io_reader_new(context.cast(), vtable),
        }
    };
    // SAFETY: all handles are valid, the first two to be written to.
    let status = unsafe {
        mlx_sys::mlx_load_safetensors_reader(
            &mut handles.arrays,
            &mut handles.metadata,
            handles.reader,
            stream.as_ptr(),
        )
    };
    if status != 0 {
        return Err(Exception::custom(format!("MLX does not take tensor {name}")));
    }
    // SAFETY: takes nothing and returns an empty handle.
    let mut out = unsafe { mlx_sys::mlx_array_new() };
    // SAFETY: the map and the name are valid, and `out` is a handle to write to.
    let status =
        unsafe { mlx_sys::mlx_map_string_to_array_get(&mut out, handles.arrays, NAME.as_ptr()) };
    // SAFETY: `out` is owned here, holds an array if the call succeeded, and is given away once.
    let array = unsafe { Array::from_ptr(out) };
    if status != 0 {
        return Err(Exception::custom(format!("MLX lost tensor {name}")));
    }
    Ok(array)
}
