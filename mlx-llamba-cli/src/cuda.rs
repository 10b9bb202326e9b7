//! The choice of MLX's CUDA library. The command is linked with MLX for CPUs, which runs everywhere, and
//! starts itself again with MLX for CUDA where there is an NVIDIA GPU: without one that library does not
//! even compute on the CPU.

use std::env;
use std::ffi::{OsString, c_int};
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::{Library, Symbol};

/// Tells the process that is started again that it was, and what `LD_PRELOAD` was before.
const STARTED: &str = "MLX_LLAMBA_CUDA_STARTED";
const PRELOAD: &str = "LD_PRELOAD";

/// The version of CUDA that MLX's library is built for, as the driver counts them.
const VERSION: c_int = 13_000;

/// The parts of the library's directory, each of which must be there.
const FILES: [&str; 8] = [
    "mlx/lib/libmlx.so",
    "mlx/include/cccl",
    "nvidia/cu13/include/cuda_fp16.h",
    "nvidia/cu13/lib/libcublasLt.so.13",
    "nvidia/cu13/lib/libcufft.so.12",
    "nvidia/cu13/lib/libnvrtc.so.13",
    "nvidia/cudnn/lib/libcudnn.so.9",
    "nvidia/nccl/lib/libnccl.so.2",
];

/// The reasons why MLX for CUDA is not used.
#[derive(Debug, Clone)]
pub(crate) enum Missing {
    /// The directory, and the files that are not in it.
    Files(PathBuf, Vec<&'static str>),
    Driver(String),
    /// The newest version of CUDA that the driver knows.
    NewerDriver(c_int),
    Gpu,
    /// The system did not start the command again, or without the library.
    Start(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(root, files) => {
                write!(f, "{} lacks {}", root.display(), files.join(", "))
            }
            Self::Driver(error) => write!(f, "no NVIDIA driver was found: {error}"),
            Self::NewerDriver(version) => {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                write!(f, "the NVIDIA driver is for CUDA up to {major}.{minor}, expected 13.0")
            }
            Self::Gpu => f.write_str("the NVIDIA driver finds no GPU"),
            Self::Start(error) => write!(f, "MLX for CUDA was not loaded: {error}"),
        }
    }
}

impl Missing {
    /// Advice on how to get what is missing.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Files(..) => "unpack the archive again, or rebuild with the feature cuda",
            Self::Driver(_) => "to use an NVIDIA GPU, install its driver, version 580 or later",
            Self::NewerDriver(_) => "install version 580 or later of the driver",
            Self::Gpu => "nvidia-smi lists GPUs; CUDA_VISIBLE_DEVICES may hide them",
            Self::Start(_) => "look for messages of the dynamic loader (ld.so) above",
        }
    }
}

static CHOICE: OnceLock<Result<PathBuf, Missing>> = OnceLock::new();

/// Returns the library in use, or the reason why there is none.
pub(crate) fn choice() -> Option<&'static Result<PathBuf, Missing>> {
    CHOICE.get()
}

/// Starts the command again with MLX for CUDA, if this machine can use it and it is not yet in use. To be
/// called first, while the process has one thread.
pub(crate) fn start() {
    let choice = match env::var_os(STARTED) {
        Some(preload) => started(preload),
        None => ready().and_then(|library| Err(again(&library))),
    };
    let _ = CHOICE.set(choice);
}

/// Logs the reason why the CPU is used.
pub(crate) fn warn() {
    if let Some(Err(missing)) = choice() {
        log::warn!("running on the CPU: {missing}; {}", missing.help());
    }
}

/// Sets what MLX reads from the environment, where it is not set. To be called while the process has one thread.
///
/// MLX ends every computation with an error once it has seen 800 different graphs, unless its check for
/// thrashing is off: a server has one for each number of rows. Without `rounded`, float32 products are exact: by
/// default MLX rounds their factors to 10 bits of mantissa (TF32), and a text would depend on the texts beside it.
pub(crate) fn settings(rounded: bool) {
    let exact = (!rounded).then_some(("MLX_ENABLE_TF32", "0"));
    let settings =
        [("MLX_ENABLE_CACHE_THRASHING_CHECK", "0"), ("MLX_CUDA_GRAPH_CACHE_SIZE", "2000")];
    for (name, value) in settings.into_iter().chain(exact) {
        if env::var_os(name).is_none() {
            // SAFETY: the process has one thread; MLX reads the variables when it first uses the GPU.
            unsafe { env::set_var(name, value) };
        }
    }
}

/// Restores the environment after the command was started again.
fn started(preload: OsString) -> Result<PathBuf, Missing> {
    // SAFETY: the process has one thread, as `start` demands.
    unsafe {
        env::remove_var(STARTED);
        match preload.is_empty() {
            true => env::remove_var(PRELOAD),
            false => env::set_var(PRELOAD, preload),
        }
    }
    let expected = library()?;
    let found = mlx_llamba::mlx::Runtime::of_process().library;
    match found {
        Some(found) if found.canonicalize().ok() == expected.canonicalize().ok() => Ok(found),
        found => Err(Missing::Start(format!("{found:?} is, in the place of {expected:?}"))),
    }
}

/// Starts the command again with `library`; returns only if that fails.
fn again(library: &Path) -> Missing {
    let before = env::var_os(PRELOAD).unwrap_or_default();
    let mut preload = library.as_os_str().to_owned();
    if !before.is_empty() {
        preload.push(":");
        preload.push(&before);
    }
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Missing::Start(error.to_string()),
    };
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(PRELOAD, preload).env(STARTED, before);
    Missing::Start(command.exec().to_string())
}

/// Returns the library, if it is whole.
fn library() -> Result<PathBuf, Missing> {
    // As `scripts/package` lays it out, and where it was built.
    let packaged = env::current_exe()
        .ok()
        .and_then(|program| Some(program.canonicalize().ok()?.parent()?.join("../lib/cuda")));
    let built = option_env!("MLX_LLAMBA_CUDA_BUILT").map(PathBuf::from);
    let candidates: Vec<PathBuf> = packaged.into_iter().chain(built).collect();
    let root = candidates.iter().find(|root| root.is_dir()).or(candidates.first());
    let root = root.cloned().unwrap_or_default();
    let absent: Vec<_> = FILES.into_iter().filter(|file| !root.join(file).exists()).collect();
    match absent.is_empty() {
        true => Ok(root.join(FILES[0])),
        false => Err(Missing::Files(root, absent)),
    }
}

/// Returns the library, if this machine can use it.
fn ready() -> Result<PathBuf, Missing> {
    let error = |error: libloading::Error| Missing::Driver(error.to_string());
    // SAFETY: NVIDIA's driver may be loaded at any time.
    let driver = unsafe { Library::new("libcuda.so.1") }.map_err(error)?;
    // SAFETY: the functions have these types: see cuda.h in NVIDIA's toolkit.
    let (init, version, count) = unsafe {
        let init: Symbol<'_, unsafe extern "C" fn(u32) -> c_int> =
            driver.get(b"cuInit\0").map_err(error)?;
        let version: Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> =
            driver.get(b"cuDriverGetVersion\0").map_err(error)?;
        let count: Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> =
            driver.get(b"cuDeviceGetCount\0").map_err(error)?;
        (init, version, count)
    };
    let (mut newest, mut gpus) = (0, 0);
    // SAFETY: the numbers are valid places to write to.
    if unsafe { version(&raw mut newest) } == 0 && newest < VERSION {
        return Err(Missing::NewerDriver(newest));
    }
    // SAFETY: as above.
    if unsafe { init(0) != 0 || count(&raw mut gpus) != 0 } || gpus == 0 {
        return Err(Missing::Gpu);
    }
    library()
}
