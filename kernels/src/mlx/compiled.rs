//! Functions that MLX records once and replays: building their graph again costs a fraction.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::handles::{Closure, CompileCache};
use super::status::{check, install_error_handler};

/// A function of arrays that MLX records once for each list of shapes and dtypes of its inputs.
///
/// MLX keeps recordings by thread, so it can be called on the thread that made it only.
pub struct Compiled {
    id: usize,
    closure: Closure,
    home: ThreadId,
}

/// Numbers are never used twice: a recording that outlives its function is never taken for another's.
static NEXT: AtomicUsize = AtomicUsize::new(1 << 32);

/// Functions dropped on other threads than their own, whose recordings wait for these.
static DROPPED: Mutex<Vec<(ThreadId, usize)>> = Mutex::new(Vec::new());

impl Compiled {
    /// Compiles `f`, which must not evaluate arrays. Arrays that it captures are constants.
    ///
    /// # Errors
    /// MLX's own.
    pub fn new<F, E>(f: F) -> Result<Self, Exception>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>, E> + Send + 'static,
        E: From<Exception> + 'static,
    {
        install_error_handler()?;
        let home = thread::current().id();
        erase_dropped(home);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (plain, mut closure) = (Closure::new(f), Closure::empty());
        // SAFETY: both handles are valid; MLX copies the first, which shares the function; there are no
        // constants at the null pointer.
        let status = unsafe {
            mlx_sys::mlx_detail_compile(&mut closure.0, plain.0, id, false, std::ptr::null(), 0)
        };
        check("mlx_detail_compile", status)?;
        Ok(Self { id, closure, home })
    }

    /// Returns true on the thread that made this.
    pub fn is_at_home(&self) -> bool {
        thread::current().id() == self.home
    }

    /// Calls the function.
    ///
    /// # Errors
    /// The function's own, when it is recorded; an [`Exception`] on another thread than its own.
    pub fn call<E: From<Exception> + 'static>(&self, inputs: &[Array]) -> Result<Vec<Array>, E> {
        if !self.is_at_home() {
            return Err(Exception::custom("a compiled function on a foreign thread").into());
        }
        self.closure.apply(inputs)
    }
}

// SAFETY: `call` uses the closure on its own thread only, and dropping it frees a function that is
// `Send`.
unsafe impl Send for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        if self.is_at_home() {
            erase(self.id);
        } else {
            DROPPED.lock().unwrap_or_else(PoisonError::into_inner).push((self.home, self.id));
        }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Frees the recordings of this thread's functions that were dropped elsewhere.
fn erase_dropped(home: ThreadId) {
    let mut dropped = DROPPED.lock().unwrap_or_else(PoisonError::into_inner);
    dropped.retain(|&(thread, id)| {
        if thread == home {
            erase(id);
        }
        thread != home
    });
}

/// Frees a recording of this thread, if there is one.
fn erase(id: usize) {
    let mut cache = CompileCache::empty();
    // SAFETY: the handle is valid to write to, and freed when it is dropped.
    if unsafe { mlx_sys::mlx_detail_compile_cache(&mut cache.0) } == 0 {
        // SAFETY: the cache is this thread's, and the handle holds a weak reference to it.
        unsafe { mlx_sys::mlx_detail_compile_erase(cache.0, id) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    type Result<T> = std::result::Result<T, Exception>;

    fn product(calls: &Arc<AtomicUsize>) -> Compiled {
        let calls = calls.clone();
        Compiled::new(move |x: &[Array]| -> Result<Vec<Array>> {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(vec![x[0].matmul(&x[1])?])
        })
        .unwrap()
    }

    #[test]
    fn a_function_is_recorded_once_for_each_shape() {
        let calls = Arc::new(AtomicUsize::new(0));
        let f = product(&calls);
        for rows in [2, 2, 3, 2, 3] {
            let a = Array::full::<f32>(&[rows, 4], &Array::from_f32(rows as f32)).unwrap();
            let b = Array::ones::<f32>(&[4, 5]).unwrap();
            let y = f.call::<Exception>(&[a, b]).unwrap().remove(0);
            assert_eq!(y.shape(), [rows, 5]);
            assert_eq!(
                y.to_vec_exact::<f32>().unwrap(),
                vec![4.0 * rows as f32; 5 * rows as usize]
            );
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&calls), 2);
        drop(f);
        assert_eq!(Arc::strong_count(&calls), 1, "the function is freed");
    }

    #[test]
    fn a_foreign_thread_may_drop_it_and_nothing_else() {
        let calls = Arc::new(AtomicUsize::new(0));
        let f = product(&calls);
        let calls_there = calls.clone();
        thread::spawn(move || {
            let x = Array::ones::<f32>(&[2, 2]).unwrap();
            let error = f.call::<Exception>(&[x.clone(), x]).unwrap_err();
            assert!(error.to_string().contains("foreign thread"), "{error}");
            drop(f);
            assert_eq!(Arc::strong_count(&calls_there), 2, "the function is freed");
        })
        .join()
        .unwrap();
        let mine = |all: &[(ThreadId, usize)]| {
            all.iter().filter(|(home, _)| *home == thread::current().id()).count()
        };
        assert_eq!(mine(&DROPPED.lock().unwrap()), 1);
        drop(product(&calls));
        assert_eq!(mine(&DROPPED.lock().unwrap()), 0);
    }
}
