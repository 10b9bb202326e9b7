//! Runs Metal kernel bodies on the host, for tests: the very text that `mlx.fast.metal_kernel` is
//! given, compiled as C++ and run thread by thread, every load and store checked and counted.
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
//! # How
//! The body gets the signature that MLX would write (constant or device pointers, references for
//! scalars, `NAME_shape` and its like where the source names them, attributes found by name,
//! template parameters), and a stand-in for metal_stdlib (`host/`). g++ compiles it with
//! `-fsanitize=thread`, which makes every load and store call a function with its address; these
//! functions are not the sanitizer's but `host/hooks.h`. Threads are fibers, threadgroups run one
//! after the other. Compiled kernels are kept under the target directory by a hash of everything
//! that went in, or in `MLX_LLAMBA_EMULATOR_CACHE`. `CXX` names another g++.
//!
//! # What is found
//! [`FaultKind`] lists it. A run with faults is an error that holds the outputs and the report, and
//! says the source line, the thread and the array of each. Races are judged by barriers, not by
//! what happened to run first: two threads, one of them writing, with no `threadgroup_barrier`
//! between (or `simdgroup_barrier`, for lanes of one simdgroup) whose flags name that memory.
//! Simdgroup functions order nothing. Lanes and threads must come to the same barrier or simdgroup
//! function by line and operation, and all of them: what Metal leaves to the lanes that are active
//! is a fault here.
//!
//! How fine the bounds are: device buffers and threadgroup arrays to the byte (an access has to go
//! 256 bytes past a threadgroup array to meet the next, 1 MiB past a buffer); rows of
//! multidimensional arrays and arrays in registers where they are indexed by name, not through a
//! pointer; several arrays declared with commas in one declaration lie side by side. Variables of a
//! thread that nobody set hold a pattern, not zero; the emulator does not see that they are read.
//!
//! # What is counted
//! Device bytes, per buffer ([`Traffic`]): all accesses, those distinct in a threadgroup (the
//! figure for traffic), those distinct in all, and the lines that simdgroups touch, which shows
//! whether they coalesce. Threadgroup memory, without padding that Metal may add between arrays.
//! Barriers and simdgroup functions.
//!
//! # What is not
//! - Time, occupancy, registers, caches, and bank conflicts.
//! - Address spaces as types, when a kernel runs; [`check_types`] looks at them. What else Metal
//!   rejects and g++ accepts can pass.
//! - Fast-math rewriting: functions are rounded correctly, `fast::` ones are 2 units in the last
//!   place off, `a * b + c` is two roundings. Subnormals are kept.
//! - Memory left over from other kernels: threadgroup memory and outputs start as NaN.
//! - Textures, indirect calls, function constants, quadgroup functions, `simd_ballot`, 64-bit
//!   atomics, MLX's `atomic_outputs`, recursion into other kernels.
//!
//! # Conventions for kernels
//! - Arrays in threadgroup memory are declared in the body, one a declaration, as
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
    /// Its name.
    pub name: &'a str,
    /// Names of the inputs.
    pub inputs: &'a [&'a str],
    /// Names of the outputs.
    pub outputs: &'a [&'a str],
    /// The body, without a signature.
    pub source: &'a str,
    /// What goes before the signature: functions and constants.
    pub header: &'a str,
    /// The body's file, for the places of faults; the name with `.metal` where none is given.
    pub path: Option<&'a Path>,
}

/// A template argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateArg {
    /// A type.
    Dtype(Dtype),
    /// An integer.
    Int(i32),
    /// A truth value.
    Bool(bool),
}

/// How a kernel is run.
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
    /// What MLX fills the outputs with first, if it does.
    pub init_value: Option<f32>,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// The outputs, in the kernel's order.
    pub outputs: Vec<Buffer>,
    /// What was counted and found.
    pub report: Report,
}

/// Why there is no clean run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The launch does not fit the kernel.
    #[error("launch: {0}")]
    Launch(String),
    /// Metal would refuse the threadgroup.
    #[error("{threads} threads in a threadgroup, {most} at most")]
    TooManyThreads {
        /// Threads asked for.
        threads: u32,
        /// Threads there can be.
        most: u32,
    },
    /// The kernel is no valid program.
    #[error("the kernel does not compile:\n{message}")]
    Compile {
        /// What the compiler says.
        message: String,
    },
    /// A tool the emulator needs is missing or fails.
    #[error("{tool}: {message}")]
    Tool {
        /// The tool.
        tool: String,
        /// What it says.
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
    /// The faults of a run, if that is what it is.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Error::Faults(run) => &run.report.faults,
            _ => &[],
        }
    }
}

/// Compiles the kernel for these inputs, if that was not done before, and runs it.
///
/// # Errors
/// [`Error::Faults`] with the outputs and the report when the kernel did anything it must not.
pub fn run(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Result<Run, Error> {
    run_offset(kernel, inputs, launch, 0)
}

/// Has clang look at the kernel with address spaces as types: a pointer without its space, or with
/// another's, is an [`Error::Compile`], as in Metal. Vectors and atomics in memory, which Metal
/// allows, are errors too.
///
/// # Errors
/// [`Error::Compile`] with clang's words; [`Error::Tool`] where there is no libclang. It is looked
/// for in `LIBCLANG_PATH`, in MLX's cache (`MLX_LLAMBA_CACHE`, or `mlx-cache` in the target
/// directory), and where the system has it.
pub fn check_types(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Result<(), Error> {
    run::check(kernel, inputs, launch)?;
    clang::check(kernel.name, &source::generate(kernel, inputs, launch, source::For::Checking))
}

/// As [`run`], with inputs that begin `offset` elements after an aligned address, as slices of
/// arrays do in MLX: what a kernel loads as a vector from there is a fault.
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
