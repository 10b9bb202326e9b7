//! Runs Metal kernel bodies on the host, for tests.

mod buffer;
mod compile;
mod report;
mod run;
mod source;

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
    run::run(kernel, inputs, launch)
}
