//! Runs Metal kernel bodies on the host, for tests: the text given to `mlx.fast.metal_kernel` is
//! compiled as C++ and run thread by thread, and every load and store is checked and counted.
//!
//! ```no_run
//! use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, TemplateArg, run};
//!
//! let double = Kernel {
//!     name: "double",
//!     inputs: &["x"],
//!     outputs: &["y"],
//!     source: "uint i = thread_position_in_grid.x; y[i] = T(2) * x[i];",
//!     header: "",
//!     path: None,
//! };
//! let launch = Launch {
//!     template: vec![("T", TemplateArg::Dtype(Dtype::F32))],
//!     grid: [3, 1, 1],
//!     threadgroup: [3, 1, 1],
//!     outputs: vec![(vec![3], Dtype::F32)],
//!     ..Launch::default()
//! };
//! let ran = run(&double, &[Buffer::f32(&[3], &[1.0, 2.0, 3.0])], &launch)?;
//! assert_eq!(ran.outputs[0].to_f32(), [2.0, 4.0, 6.0]);
//! assert_eq!(ran.report.bytes_read(), 12);
//! # Ok::<(), mlx_llamba_emulator::Error>(())
//! ```
//!
//! # Operation
//! The body gets the signature that MLX would write (constant or device pointers, references for
//! scalars, `NAME_shape` and the like where the source uses them, attributes found by name,
//! template parameters) and a replacement of metal_stdlib (`host/`). g++ compiles it with
//! `-fsanitize=thread`, which makes every load and store call a function with its address; here
//! these functions are those of `host/hooks.h`, not the sanitizer's. Threads are fibers, and
//! threadgroups run one after the other. Compiled kernels are cached in the target directory, or in
//! `MLX_LLAMBA_EMULATOR_CACHE`, by a hash of their source, flags and compiler. `CXX` names another
//! g++.
//!
//! # Faults
//! [`FaultKind`] lists them. A run with faults is an error that holds the outputs and the report,
//! and names the source line, the thread and the array of each. Races are found by barriers, not by
//! the order of execution: two threads access the same memory, one of them writes, and no
//! `threadgroup_barrier` (or `simdgroup_barrier`, for lanes of one simdgroup) whose flags name that
//! memory lies between. Simdgroup functions do not order accesses. All lanes or threads must reach
//! the same barrier or simdgroup function, by line and operation: calls by only the active lanes,
//! which Metal allows, are faults here.
//!
//! Bounds of device buffers and threadgroup arrays are checked to the byte: an access has to go 256
//! bytes past a threadgroup array to reach the next one, 1 MiB past a buffer. Rows of
//! multidimensional arrays, and arrays in registers, are checked where they are indexed by name,
//! not through a pointer; arrays declared with commas in one declaration are adjacent. Unset
//! variables of a thread hold a pattern, not zero; the emulator does not see that they are read.
//!
//! # Counts
//! Device bytes per buffer ([`Traffic`]): all accesses, those distinct within a threadgroup (the
//! figure for traffic), those distinct overall, and the lines that simdgroups touch, which show
//! whether they coalesce. Threadgroup memory, without the padding that Metal may add between
//! arrays. Barriers and simdgroup functions.
//!
//! # Limits
//! Not emulated:
//! - Time, occupancy, registers, caches, and bank conflicts.
//! - Address spaces as types, when a kernel runs; [`check_types`] checks them. Other code that
//!   Metal rejects and g++ accepts passes.
//! - Fast-math rewriting: functions are rounded correctly, `fast::` ones are 2 units in the last
//!   place off, `a * b + c` is two roundings. Subnormals are kept.
//! - Memory left over from other kernels: threadgroup memory and outputs start as NaN.
//! - Textures, indirect calls, function constants, quadgroup functions, `simd_ballot`, 64-bit
//!   atomics, MLX's `atomic_outputs`, recursion into other kernels.
//!
//! # Conventions for kernels
//! - Arrays in threadgroup memory are declared in the body, one per declaration, as
//!   `threadgroup T name[n];`. Pointers into them may be `auto`, `threadgroup T*`, or a template
//!   parameter's type.
//! - bfloat converts to float implicitly, from float only by `bfloat(x)`; arguments of `min`, `max`
//!   and `clamp` have one type.
//!
//! It needs Linux, g++ 12 or newer, and binutils (`nm`, `addr2line`). On x86-64 and aarch64 fibers
//! switch in a few instructions, elsewhere through ucontext.

mod abi;
mod argument;
mod buffer;
mod clang;
mod command;
mod compile;
mod describe;
mod host;
mod report;
mod run;
mod source;
mod spaces;
mod symbols;

use std::path::Path;

pub use buffer::{Buffer, Dtype};
pub use report::{Fault, FaultKind, Report, Traffic};

/// A kernel, as it is given to `mlx.fast.metal_kernel`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// Name.
    pub name: &'a str,
    /// Names of the inputs.
    pub inputs: &'a [&'a str],
    /// Names of the outputs.
    pub outputs: &'a [&'a str],
    /// The body, without a signature.
    pub source: &'a str,
    /// The code before the signature: functions and constants.
    pub header: &'a str,
    /// The body's file, for the positions of faults; by default the name with `.metal`.
    pub path: Option<&'a Path>,
}

impl<'a> Kernel<'a> {
    /// Returns a kernel without a header, whose file has its name.
    pub fn new(
        name: &'a str,
        inputs: &'a [&'a str],
        outputs: &'a [&'a str],
        source: &'a str,
    ) -> Self {
        Self { name, inputs, outputs, source, header: "", path: None }
    }
}

/// A template argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateArg {
    /// A type.
    Dtype(Dtype),
    /// An integer.
    Int(i32),
    /// A bool.
    Bool(bool),
}

/// The parameters of a run.
#[derive(Clone, Debug, Default)]
pub struct Launch<'a> {
    /// Template arguments by name.
    pub template: Vec<(&'a str, TemplateArg)>,
    /// Threads along x, y, z (threads, not threadgroups).
    pub grid: [u32; 3],
    /// Threads of a threadgroup along x, y, z.
    pub threadgroup: [u32; 3],
    /// Shapes and dtypes of the outputs.
    pub outputs: Vec<(Vec<i32>, Dtype)>,
    /// The value with which MLX fills the outputs first, if any.
    pub init_value: Option<f32>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The outputs, in the kernel's order.
    pub outputs: Vec<Buffer>,
    /// Counts and faults.
    pub report: Report,
}

/// The reasons why a run fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The launch does not fit the kernel.
    #[error("launch: {0}")]
    Launch(String),
    /// Metal would refuse the threadgroup.
    #[error("{threads} threads in a threadgroup, {most} at most")]
    TooManyThreads {
        /// Requested threads.
        threads: u32,
        /// The limit.
        most: u32,
    },
    /// The kernel is not a valid program.
    #[error("the kernel does not compile:\n{message}")]
    Compile {
        /// The compiler's message.
        message: String,
    },
    /// A tool the emulator needs is missing or fails.
    #[error("{tool}: {message}")]
    Tool {
        /// The tool.
        tool: String,
        /// Its message.
        message: String,
    },
    /// The kernel ran and did something wrong.
    #[error("{}", faults(&.0.report.faults))]
    Faults(Box<Run>),
}

fn faults(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(|f| format!("\n  {f}")).collect();
    format!("{} faults:{}", faults.len(), lines.concat())
}

impl Error {
    /// Returns the faults of a run, or an empty slice for another error.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Error::Faults(run) => &run.report.faults,
            _ => &[],
        }
    }
}

/// Compiles the kernel for these inputs, unless it is in the cache, and runs it.
///
/// # Errors
/// [`Error::Faults`] with the outputs and the report if the kernel has a fault.
pub fn run(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Result<Run, Error> {
    run_offset(kernel, inputs, launch, 0)
}

/// Checks the kernel with clang, with address spaces as types: a pointer without its space, or with
/// another one's, is an [`Error::Compile`], as in Metal. Vectors and atomics in memory, which Metal
/// allows, are errors too.
///
/// # Errors
/// [`Error::Compile`] with clang's message; [`Error::Tool`] if there is no libclang in
/// `LIBCLANG_PATH`, in MLX's cache (`MLX_LLAMBA_CACHE`, or `mlx-cache` in the target directory), or
/// in the system.
pub fn check_types(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Result<(), Error> {
    run::check(kernel, inputs, launch)?;
    clang::check(kernel.name, &source::generate(kernel, inputs, launch, source::For::Checking))
}

/// As [`run`], with inputs that begin `offset` elements after an aligned address, as slices of
/// arrays do in MLX: a vector load from there is a fault.
///
/// # Errors
/// As [`run`].
pub fn run_offset(
    kernel: &Kernel,
    inputs: &[Buffer],
    launch: &Launch,
    offset: u32,
) -> Result<Run, Error> {
    if !cfg!(target_os = "linux") {
        return Err(Error::Launch(
            "the emulator runs on Linux: it reads ELF and g++'s calls".into(),
        ));
    }
    run::run(kernel, inputs, launch, offset)
}
