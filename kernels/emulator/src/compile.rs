//! Compiles each instantiation to a shared library once, and loads it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Error;
use crate::command::{call, compile, compiler};
use crate::host::{CHECK, HOST};
use crate::symbols::{self, Variable};

/// With `-fsanitize=thread` the compiler announces every load and store; `bounds` and the others
/// call functions when an index or an operation is wrong. All these functions are the runtime's.
const KERNEL_FLAGS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    // -isystem mutes the headers' warnings; these two are mistakes of the kernel.
    "-Werror=uninitialized",
    "-Werror=return-type",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",
    "-Wno-literal-suffix",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",
    "-fno-toplevel-reorder",
    "-fno-threadsafe-statics",
    "-fsigned-char",
    "-ffp-contract=off",
    "-fexcess-precision=16",
    // Unset variables must not be zero by chance.
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow",
];
const RUNTIME_FLAGS: &[&str] =
    &["-std=c++17", "-O2", "-g", "-fPIC", "-fno-exceptions", "-fno-rtti"];

/// A loaded instantiation. Its state is global to the library, so a launch holds the lock.
pub(crate) struct Library {
    pub(crate) path: PathBuf,
    /// Offset of threadgroup memory in the library.
    pub(crate) threadgroup: u64,
    pub(crate) variables: Vec<Variable>,
    code: Mutex<libloading::Library>,
}

impl Library {
    pub(crate) fn lock(&self) -> MutexGuard<'_, libloading::Library> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the library of this source, from memory, from disk, or from the compiler.
pub(crate) fn library(name: &str, source: &str) -> Result<Arc<Library>, Error> {
    static LOADED: Mutex<Option<HashMap<PathBuf, Arc<Library>>>> = Mutex::new(None);
    let directory = directory();
    let path = directory.join(format!("{name}-{}.so", hash(source)));
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_with(HashMap::new);
    if let Some(library) = loaded.get(&path) {
        return Ok(Arc::clone(library));
    }
    if !path.exists() {
        build(&directory, &path, source)?;
    }
    let (threadgroup, variables) = symbols::variables(&path)?;
    // SAFETY: the library is one that `build` made; it has no initializers.
    let code = unsafe { libloading::Library::new(&path) }
        .map_err(|e| Error::Tool { tool: "dlopen".into(), message: e.to_string() })?;
    let library =
        Arc::new(Library { path: path.clone(), threadgroup, variables, code: Mutex::new(code) });
    loaded.insert(path, Arc::clone(&library));
    Ok(library)
}

/// Returns the directory of compiled kernels: beside the test's executable, that is in the target
/// directory, or in `MLX_LLAMBA_EMULATOR_CACHE`.
fn directory() -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.to_path_buf());
    let base = match std::env::var_os("MLX_LLAMBA_EMULATOR_CACHE") {
        Some(path) => PathBuf::from(path),
        None => beside().unwrap_or_else(std::env::temp_dir).join("metal-emulator"),
    };
    base.join(hash(""))
}

/// Returns two differently seeded 64-bit hashes of the source, the C++ side, flags and compiler.
fn hash(source: &str) -> String {
    let mut text = String::new();
    for seed in 0u8..2 {
        let mut hasher = DefaultHasher::new();
        (seed, HOST, CHECK, KERNEL_FLAGS, RUNTIME_FLAGS, compiler(), source).hash(&mut hasher);
        text.push_str(&format!("{:016x}", hasher.finish()));
    }
    text
}

/// Writes the C++ side to the directory, if it is missing, and returns the directory's lock.
fn host(directory: &Path) -> Result<File, Error> {
    fs::create_dir_all(directory).map_err(io)?;
    let lock = File::create(directory.join("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if !directory.join("complete").exists() {
        // Headers that a kernel may name are all in metal_stdlib.h.
        for part in ["atomic", "math", "simdgroup", "simdgroup_matrix", "stdlib"] {
            fs::write(directory.join(format!("metal_{part}")), "").map_err(io)?;
        }
        for (name, text) in HOST {
            fs::write(directory.join(name), text).map_err(io)?;
        }
        fs::create_dir_all(directory.join("check")).map_err(io)?;
        for (name, text) in CHECK {
            fs::write(directory.join("check").join(name), text).map_err(io)?;
        }
        fs::write(directory.join("complete"), "").map_err(io)?;
    }
    Ok(lock)
}

/// Returns the directory with the headers.
pub(crate) fn headers() -> Result<PathBuf, Error> {
    let directory = directory();
    host(&directory)?;
    Ok(directory)
}

fn io(e: std::io::Error) -> Error {
    Error::Tool { tool: "cache".into(), message: e.to_string() }
}

/// Compiles to files of this process and moves the result, so that processes may build the same
/// kernel at once.
fn build(directory: &Path, path: &Path, source: &str) -> Result<(), Error> {
    let runtime = directory.join("runtime.o");
    {
        let _lock = host(directory)?;
        if !runtime.exists() {
            let partial = directory.join("runtime.partial.o");
            let mut command = compile();
            command.args(RUNTIME_FLAGS).arg("-c").arg(directory.join("runtime.cpp"));
            call(command.arg("-o").arg(&partial))?;
            fs::rename(&partial, &runtime).map_err(io)?;
        }
    }
    let own = |extension: &str| path.with_extension(format!("{}.{extension}", std::process::id()));
    let [cpp, object, partial] = ["cpp", "o", "partial"].map(own);
    fs::write(&cpp, source).map_err(io)?;
    let mut command = compile();
    command.args(KERNEL_FLAGS).arg("-isystem").arg(directory).arg("-c").arg(&cpp);
    let compiled = call(command.arg("-o").arg(&object)).map_err(|e| match e {
        Error::Tool { message, .. } => Error::Compile { message },
        other => other,
    });
    let linked = compiled.and_then(|()| {
        let mut command = compile();
        command.arg("-shared").arg(&object).arg(&runtime).arg("-lm");
        call(command.arg("-Wl,-Bsymbolic").arg("-o").arg(&partial))
    });
    for file in [&cpp, &object] {
        let _ = fs::remove_file(file);
    }
    linked?;
    fs::rename(&partial, path).map_err(io)
}
