//! Owned handles of mlx-c.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::status::{c_string, check, install_error_handler};

/// Declares owned handles, freed when dropped; those with a constructor begin empty.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident($raw:ident, $free:ident $(, $new:ident)?);)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) mlx_sys::$raw);

        $(impl $name {
            pub(crate) fn empty() -> Self {
                // SAFETY: takes nothing; the handle it returns is freed when `self` is dropped.
                Self(unsafe { mlx_sys::$new() })
            }
        })?

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle is owned by `self` and freed once.
                unsafe { mlx_sys::$free(self.0) };
            }
        }
    )*};
}

handles! {
    /// A place for one array; empty, it stands for "no array".
    Slot(mlx_array, mlx_array_free, mlx_array_new);
    /// A list of arrays.
    Arrays(mlx_vector_array, mlx_vector_array_free, mlx_vector_array_new);
    /// A function of arrays.
    Closure(mlx_closure, mlx_closure_free, mlx_closure_new);
    /// A weak reference to a thread's recordings of compiled functions.
    CompileCache(mlx_compile_cache, mlx_compile_cache_free, mlx_compile_cache_new);
    /// A device.
    Device(mlx_device, mlx_device_free);
    /// Properties of a device.
    DeviceInfo(mlx_device_info, mlx_device_info_free, mlx_device_info_new);
    /// The gradient of a function.
    GradientClosure(mlx_closure_custom, mlx_closure_custom_free);
    /// A text.
    Text(mlx_string, mlx_string_free, mlx_string_new);
    /// Arrays by name.
    ArrayMap(mlx_map_string_to_array, mlx_map_string_to_array_free, mlx_map_string_to_array_new);
    /// Texts by name.
    TextMap(mlx_map_string_to_string, mlx_map_string_to_string_free, mlx_map_string_to_string_new);
    /// A file that MLX reads through callbacks.
    IoReader(mlx_io_reader, mlx_io_reader_free);
    /// A list of strings.
    Strings(mlx_vector_string, mlx_vector_string_free, mlx_vector_string_new);
}

impl Arrays {
    /// A list that shares `arrays`.
    pub(crate) fn of<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Self {
        let handles: Vec<_> = arrays.into_iter().map(Array::as_ptr).collect();
        // SAFETY: the handles are of live arrays, of which the list keeps its own references.
        Self(unsafe { mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len()) })
    }

    /// The arrays of the list, shared.
    pub(crate) fn to_vec(&self) -> Result<Vec<Array>> {
        // SAFETY: the list is valid.
        let len = unsafe { mlx_sys::mlx_vector_array_size(self.0) };
        let get = |i| {
            one("mlx_vector_array_get", |out| {
                // SAFETY: `out` is a handle to write to, the list is valid and `i` below its length.
                unsafe { mlx_sys::mlx_vector_array_get(out, self.0, i) }
            })
        };
        (0..len).map(get).collect()
    }
}

impl Strings {
    /// A list of copies of `strings`.
    pub(crate) fn of(strings: &[&str]) -> Result<Self> {
        let list = Self::empty();
        for string in strings {
            let string = c_string(string)?;
            // SAFETY: the list is valid, and MLX copies the string.
            check("mlx_vector_string_append_value", unsafe {
                mlx_sys::mlx_vector_string_append_value(list.0, string.as_ptr())
            })?;
        }
        Ok(list)
    }
}

/// Runs a call of mlx-c that fills one array.
pub(crate) fn one(name: &str, call: impl FnOnce(*mut mlx_sys::mlx_array) -> i32) -> Result<Array> {
    install_error_handler()?;
    let mut slot = Slot::empty();
    check(name, call(&mut slot.0))?;
    let slot = std::mem::ManuallyDrop::new(slot);
    // SAFETY: MLX has put a valid array into the handle, whose owner is now the result alone.
    Ok(unsafe { Array::from_ptr(slot.0) })
}

/// Runs a call of mlx-c that fills a list of arrays.
pub(crate) fn many(
    name: &str,
    call: impl FnOnce(*mut mlx_sys::mlx_vector_array) -> i32,
) -> Result<Vec<Array>> {
    install_error_handler()?;
    let mut list = Arrays::empty();
    check(name, call(&mut list.0))?;
    list.to_vec()
}
