//! Lazy arrays whose elements are read when they are first evaluated.
//!
//! MLX reads an array of a safetensors file through a table of callbacks, from a thread of its
//! own. It is given a file that does not exist: a header with one tensor, written here, and then
//! the bytes of a [`Bytes`].

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_rs::{Array, Stream};

use super::handles::{ArrayMap, IoReader, TextMap, one};
use super::status::{Result, check, install_error_handler};

/// The elements of an array, little-endian and in row-major order.
pub trait Bytes: Send + Sync + 'static {
    /// The number of bytes.
    fn count(&self) -> usize;

    /// Copies bytes from `offset` on until `out` is full or the bytes end, and returns the number
    /// copied. Called from threads of MLX, in any order.
    fn read(&self, offset: usize, out: &mut [MaybeUninit<u8>]) -> usize;
}

/// The name of the only tensor in the header that MLX sees.
const NAME: &CStr = c"t";

/// The payload of MLX's callbacks: owned by MLX from `mlx_io_reader_new` until it calls [`free`].
struct Reader<B> {
    header: Vec<u8>,
    bytes: B,
    label: CString,
    position: AtomicUsize,
}

impl<B: Bytes> Reader<B> {
    fn len(&self) -> usize {
        self.header.len() + self.bytes.count()
    }

    /// Copies from `offset` until `out` is full or the file ends; returns the number copied.
    fn copy(&self, offset: usize, out: &mut [MaybeUninit<u8>]) -> usize {
        let head = self.header.get(offset..).unwrap_or_default();
        let (first, rest) = out.split_at_mut(head.len().min(out.len()));
        first.write_copy_of_slice(&head[..first.len()]);
        if rest.is_empty() {
            return first.len();
        }
        first.len() + self.bytes.read(offset + first.len() - self.header.len(), rest)
    }
}

/// Returns the reader behind a callback's pointer.
///
/// # Safety
/// `context` must come from [`lazy_array`] with this `B`, and [`free`] must not have been called
/// on it.
unsafe fn reader<'a, B>(context: *mut c_void) -> &'a Reader<B> {
    // SAFETY: as the caller promises; callbacks only share the reader.
    unsafe { &*context.cast::<Reader<B>>() }
}

extern "C" fn ready(_: *mut c_void) -> bool {
    true
}

extern "C" fn tell<B: Bytes>(context: *mut c_void) -> usize {
    // SAFETY: MLX passes the pointer that it was given, before `free`.
    unsafe { reader::<B>(context) }.position.load(Ordering::Relaxed)
}

extern "C" fn seek<B: Bytes>(context: *mut c_void, offset: i64, whence: c_int) -> c_int {
    // SAFETY: MLX passes the pointer that it was given, before `free`.
    let reader = unsafe { reader::<B>(context) };
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

extern "C" fn read<B: Bytes>(context: *mut c_void, out: *mut c_char, wanted: usize) -> usize {
    // SAFETY: MLX passes the pointer that it was given, before `free`.
    let position = &unsafe { reader::<B>(context) }.position;
    let done = read_at::<B>(context, out, wanted, position.load(Ordering::Relaxed));
    position.fetch_add(done, Ordering::Relaxed);
    done
}

extern "C" fn read_at<B: Bytes>(
    context: *mut c_void,
    out: *mut c_char,
    wanted: usize,
    at: usize,
) -> usize {
    // SAFETY: MLX passes the pointer that it was given, before `free`.
    let reader = unsafe { reader::<B>(context) };
    if out.is_null() {
        // MLX found no memory.
        return 0;
    }
    // SAFETY: MLX gives `wanted` writable bytes at `out` that nothing else uses during the call.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast(), wanted) };
    // A panic must not reach C++.
    catch_unwind(AssertUnwindSafe(|| reader.copy(at, out))).unwrap_or(0)
}

extern "C" fn write(_: *mut c_void, _: *const c_char, _: usize) -> usize {
    0
}

extern "C" fn label<B: Bytes>(context: *mut c_void) -> *const c_char {
    // SAFETY: MLX passes the pointer that it was given, before `free`; the label lives as long.
    unsafe { reader::<B>(context) }.label.as_ptr()
}

extern "C" fn free<B: Bytes>(context: *mut c_void) {
    // A panic must not reach C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: MLX calls this once, when nothing reads from the reader any more; the pointer
        // came from `Box::into_raw`.
        drop(unsafe { Box::from_raw(context.cast::<Reader<B>>()) });
    }));
}

/// Makes an array that reads `bytes` when it is evaluated, on the CPU. `name` is for messages, and
/// `dtype` is spelled as in safetensors files.
///
/// The caller has checked that the number of bytes fits shape and dtype, that every size fits
/// `i32`, and that MLX knows the dtype.
///
/// # Errors
/// An exception that names the array if MLX does not take it.
pub fn lazy_array<B: Bytes>(name: &str, dtype: &str, shape: &[usize], bytes: B) -> Result<Array> {
    install_error_handler()?;
    let stream = Stream::cpu();
    let end = bytes.count();
    let json =
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{end}]}}}}"#);
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let text = CString::new(name).unwrap_or_default();
    let reader = Reader { header, bytes, label: text, position: AtomicUsize::new(0) };
    let vtable = mlx_sys::mlx_io_vtable {
        is_open: Some(ready),
        good: Some(ready),
        tell: Some(tell::<B>),
        seek: Some(seek::<B>),
        read: Some(read::<B>),
        read_at_offset: Some(read_at::<B>),
        write: Some(write),
        label: Some(label::<B>),
        free: Some(free::<B>),
    };
    let context = Box::into_raw(Box::new(reader));
    // SAFETY: MLX takes over `context`, which is valid until it calls `free` on it.
    let reader = IoReader(unsafe { mlx_sys::mlx_io_reader_new(context.cast(), vtable) });
    let (mut arrays, mut metadata) = (ArrayMap::empty(), TextMap::empty());
    // SAFETY: all handles are valid, the first two to be written to.
    let status = unsafe {
        mlx_sys::mlx_load_safetensors_reader(
            &raw mut arrays.0,
            &raw mut metadata.0,
            reader.0,
            stream.as_ptr(),
        )
    };
    check(name, status)?;
    // SAFETY: the map and the key are valid, and `out` is a handle to write to.
    one(name, |out| unsafe { mlx_sys::mlx_map_string_to_array_get(out, arrays.0, NAME.as_ptr()) })
}
