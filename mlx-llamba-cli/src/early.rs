//! The number of OpenBLAS's threads where the system gives few.
//!
//! OpenBLAS starts threads when it is loaded, and where that fails it ends the process or waits for ever.
//! It reads their number from the environment, which a program can change only by starting again. That
//! happens here, before any library is initialized: neither Rust nor libc may be relied on for more than
//! system calls.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use libc::{RLIM_INFINITY, RLIMIT_AS, RLIMIT_NPROC, rlimit};

/// The arguments that the loader passes: the number of arguments, the arguments, and the environment.
type Entry = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[used]
// SAFETY: the section is a list of functions of this type, which the loader calls.
#[unsafe(link_section = ".preinit_array")]
static ENTRY: Entry = begin;

/// The most variables of an environment that is copied.
const MOST: usize = 4096;
/// Processes of a user or a container from which on OpenBLAS gets its threads.
const MANY: u64 = 1024;

/// Starts the program again with one thread of OpenBLAS, if processes or memory are limited and the
/// environment says nothing of that number.
unsafe extern "C" fn begin(
    _: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    let mut changed = [ptr::null(); MOST + 2];
    let mut count = 0;
    loop {
        // SAFETY: the list ends with a null pointer, and none was found before this entry.
        let entry = unsafe { *environment.add(count) };
        if entry.is_null() {
            break;
        }
        // SAFETY: entries are strings that live as long as the process.
        let text = unsafe { CStr::from_ptr(entry) };
        if count == MOST || text.to_bytes().starts_with(b"OPENBLAS_NUM_THREADS=") {
            return;
        }
        changed[count] = entry;
        count += 1;
    }
    // SAFETY: takes a number.
    let loaded_by_name = unsafe { libc::getauxval(libc::AT_BASE) } == 0;
    // The loader is then the program to start again, with other arguments.
    if loaded_by_name || !is_limited() {
        return;
    }
    changed[count] = c"OPENBLAS_NUM_THREADS=1".as_ptr();
    // SAFETY: both lists end with a null pointer. If this fails, the program goes on as it is.
    unsafe { libc::execve(c"/proc/self/exe".as_ptr(), arguments, changed.as_ptr()) };
}

/// Returns true where there are few processes, or a bound of the address space.
fn is_limited() -> bool {
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to write to.
    if unsafe { libc::getrlimit(RLIMIT_AS, &raw mut limit) } == 0 && limit.rlim_cur != RLIM_INFINITY
    {
        return true;
    }
    // SAFETY: as above.
    if unsafe { libc::getrlimit(RLIMIT_NPROC, &raw mut limit) } == 0 && limit.rlim_cur < MANY {
        return true;
    }
    let mut text = [0u8; 16];
    // SAFETY: the path is a string, and `text` has room for as many bytes as are asked for.
    let length = unsafe {
        let file =
            libc::open(c"/sys/fs/cgroup/pids.max".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        length
    };
    let digits = text.iter().take(length.max(0) as usize).take_while(|byte| byte.is_ascii_digit());
    let count = digits.fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    text[0].is_ascii_digit() && count < MANY
}
