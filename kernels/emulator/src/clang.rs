//! Type checks with libclang, which bindgen needs anyway.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};

use crate::{Error, compile};

/// A target with half floats, for which no headers of its own are needed.
const FLAGS: [&str; 7] = [
    "-xc++",
    "-std=c++17",
    "--target=aarch64-linux-gnu",
    "-nostdinc",
    "-DEMU_CHECK",
    "-Wno-everything",
    "-ferror-limit=20",
];
/// `CXDiagnostic_Error`
const ERROR: c_int = 3;
/// `CXString`, which libclang passes by value.
#[repr(C)]
struct ClangString {
    data: *const c_void,
    flags: c_uint,
}

/// `CXSourceLocation`
#[repr(C)]
struct Location {
    pointers: [*const c_void; 2],
    offset: c_uint,
}

/// `CXUnsavedFile`
#[repr(C)]
struct UnsavedFile {
    name: *const c_char,
    contents: *const c_char,
    length: std::ffi::c_ulong,
}

type CreateIndex = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Parse = unsafe extern "C" fn(
    *mut c_void,
    *const c_char,
    *const *const c_char,
    c_int,
    *mut UnsavedFile,
    c_uint,
    c_uint,
) -> *mut c_void;
type Count = unsafe extern "C" fn(*mut c_void) -> c_uint;
type Get = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
type Severity = unsafe extern "C" fn(*mut c_void) -> c_int;
type Spelling = unsafe extern "C" fn(*mut c_void) -> ClangString;
type Locate = unsafe extern "C" fn(*mut c_void) -> Location;
/// The position that `#line` gives.
type Presume = unsafe extern "C" fn(Location, *mut ClangString, *mut c_uint, *mut c_uint);
type Text = unsafe extern "C" fn(ClangString) -> *const c_char;
type Dispose = unsafe extern "C" fn(*mut c_void);
type DisposeString = unsafe extern "C" fn(ClangString);

/// Checks the source with clang. Its messages become one [`Error::Compile`].
pub(crate) fn check(name: &str, source: &str) -> Result<(), Error> {
    let headers = compile::headers()?;
    let clang = load()?;
    let tool = |message: String| Error::Tool { tool: "libclang".into(), message };
    let text = |s: String| CString::new(s).map_err(|e| tool(e.to_string()));
    let include = |path: &Path| format!("-isystem{}", path.display());
    let mut arguments = Vec::new();
    for flag in FLAGS {
        arguments.push(text(flag.into())?);
    }
    arguments.push(text(include(&headers))?);
    arguments.push(text(include(&headers.join("check")))?);
    let arguments: Vec<*const c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    let (path, contents) = (text(format!("{name}.cpp"))?, text(source.into())?);
    let mut file = UnsavedFile {
        name: path.as_ptr(),
        contents: contents.as_ptr(),
        length: source.len() as std::ffi::c_ulong,
    };
    let missing = |e: libloading::Error| tool(e.to_string());
    let mut errors = Vec::new();
    // SAFETY: the types are those of libclang's C interface, unchanged since version 3; pointers
    // are to live values; objects of libclang are disposed of once, after their last use.
    unsafe {
        let create: Symbol<CreateIndex> = clang.get(b"clang_createIndex\0").map_err(missing)?;
        let parse: Symbol<Parse> = clang.get(b"clang_parseTranslationUnit\0").map_err(missing)?;
        let count: Symbol<Count> = clang.get(b"clang_getNumDiagnostics\0").map_err(missing)?;
        let get: Symbol<Get> = clang.get(b"clang_getDiagnostic\0").map_err(missing)?;
        let severity: Symbol<Severity> =
            clang.get(b"clang_getDiagnosticSeverity\0").map_err(missing)?;
        let spelling: Symbol<Spelling> =
            clang.get(b"clang_getDiagnosticSpelling\0").map_err(missing)?;
        let locate: Symbol<Locate> =
            clang.get(b"clang_getDiagnosticLocation\0").map_err(missing)?;
        let presume: Symbol<Presume> =
            clang.get(b"clang_getPresumedLocation\0").map_err(missing)?;
        let text: Symbol<Text> = clang.get(b"clang_getCString\0").map_err(missing)?;
        let dispose_string: Symbol<DisposeString> =
            clang.get(b"clang_disposeString\0").map_err(missing)?;
        let dispose_diagnostic: Symbol<Dispose> =
            clang.get(b"clang_disposeDiagnostic\0").map_err(missing)?;
        let dispose_unit: Symbol<Dispose> =
            clang.get(b"clang_disposeTranslationUnit\0").map_err(missing)?;
        let dispose_index: Symbol<Dispose> = clang.get(b"clang_disposeIndex\0").map_err(missing)?;

        let index = create(0, 0);
        let count_arguments = arguments.len() as c_int;
        let unit =
            parse(index, path.as_ptr(), arguments.as_ptr(), count_arguments, &raw mut file, 1, 0);
        if unit.is_null() {
            dispose_index(index);
            return Err(tool("cannot parse".into()));
        }
        for i in 0..count(unit) {
            let diagnostic = get(unit, i);
            if severity(diagnostic) >= ERROR {
                let string = |s: ClangString| {
                    let shown = ClangString { data: s.data, flags: s.flags };
                    let copy = CStr::from_ptr(text(shown)).to_string_lossy().into_owned();
                    dispose_string(s);
                    copy
                };
                let mut file = ClangString { data: std::ptr::null(), flags: 0 };
                let (mut line, mut column) = (0, 0);
                presume(locate(diagnostic), &raw mut file, &raw mut line, &raw mut column);
                let file = string(file);
                errors.push(format!("{file}:{line}:{column}: {}", string(spelling(diagnostic))));
            }
            dispose_diagnostic(diagnostic);
        }
        dispose_unit(unit);
        dispose_index(index);
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Compile { message: errors.join("\n") }) }
}

fn load() -> Result<Library, Error> {
    let mut tried = String::new();
    for path in candidates() {
        // SAFETY: libclang; its initializers only set itself up.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok(library),
            Err(e) => tried.push_str(&format!("\n  {e}")),
        }
    }
    Err(Error::Tool { tool: "libclang".into(), message: format!("not found:{tried}") })
}

/// Returns possible paths: the named one, those in MLX's cache, those of the system.
fn candidates() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Some(named) = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        paths.push(if named.is_dir() { named.join("libclang.so") } else { named });
    }
    let children = |directory: &Path, start: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let named = |p: &PathBuf| {
            p.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
        };
        entries.map(|e| e.path()).filter(named).collect()
    };
    let mut caches: Vec<PathBuf> =
        std::env::var_os("MLX_LLAMBA_CACHE").map(PathBuf::from).into_iter().collect();
    if let Ok(executable) = std::env::current_exe() {
        caches.extend(executable.ancestors().map(|a| a.join("mlx-cache")));
    }
    for cache in caches {
        let versions = children(&cache, "libclang-");
        paths.extend(versions.into_iter().map(|v| v.join("clang/native/libclang.so")));
    }
    for llvm in children(Path::new("/usr/lib"), "llvm-") {
        paths.extend(children(&llvm.join("lib"), "libclang.so"));
        paths.extend(children(&llvm.join("lib"), "libclang-"));
    }
    paths.extend(["libclang.so", "libclang.so.1"].map(PathBuf::from));
    paths.retain(|p| !p.to_string_lossy().contains("libclang-cpp"));
    paths
}
