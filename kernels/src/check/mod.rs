//! Comparison of a back end's kernels with float64 definitions: one set of cases for the tests, for
//! `scripts/gpu-check`, for `mlx-llamba doctor --kernels` and for the check when a model is loaded.
//!
//! A [`Check`] is one call of one operation. It makes its numbers, computes them on a [`Backend`],
//! and compares outputs and states with the definition. [`Backend::without`] takes the kernels that
//! fail out of use.

mod blocks;
mod cases;
mod compare;
mod data;
mod gradient;
mod list;
mod operations;
mod ring;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use mlx_rs::{Array, DeviceType, Dtype};

use crate::mlx::current_device;
use crate::{Backend, Kernel, Weight, cpu};

pub use blocks::Step;
pub use cases::{Case, documents, published, ragged, steps, tokens};
pub use compare::{Found, error_of, parts, scale_of};
pub use data::{Arrays, Data, Values, array, values};
pub use list::all;
pub use operations::compared;
pub use ring::{Ring, RingData, rings};

/// An error of any operation; only its text matters.
pub type Failure = Box<dyn std::error::Error>;

/// The largest error of float32 kernels, relative to the largest value.
pub const FLOAT32: f64 = 1e-6;

/// One call of an operation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Check {
    /// The mixer; every dtype.
    Mixer(Case),
    /// The gradients of the mixer's results by its rows, states and weights, in float32, compared with
    /// those of plain MLX operations on the same device.
    MixerGradient(Case),
    /// The activation of an MLP, from (rows, 2 width) to (rows, width).
    Swiglu {
        /// Rows.
        rows: usize,
        /// Columns of the result.
        width: usize,
        /// The dtype of activations.
        dtype: Dtype,
    },
    /// The norm of (rows, width), alone or after a residual connection.
    Norm {
        /// With the residual connection.
        residual: bool,
        /// Rows.
        rows: usize,
        /// Columns.
        width: usize,
        /// The dtype of activations.
        dtype: Dtype,
    },
    /// A product of (rows, in) with a matrix (out, in).
    Matmul {
        /// Rows of activations.
        rows: usize,
        /// The matrix.
        matrix: Matrix,
        /// The dtype of activations.
        dtype: Dtype,
    },
    /// Attention to a ring of texts.
    RingAttention(Ring),
    /// The draw of tokens from (50, vocab).
    Draw {
        /// The size of the vocabulary.
        vocab: usize,
        /// The dtype of logits.
        dtype: Dtype,
    },
    /// The cross entropy of (rows, vocab) with a float32 teacher's, and its gradient.
    CrossEntropy {
        /// Rows.
        rows: usize,
        /// The size of the vocabulary.
        vocab: usize,
        /// The temperature of both.
        temperature: f32,
        /// The dtype of logits.
        dtype: Dtype,
    },
    /// A block in a step of decoding.
    Blocks(Step),
    /// Rows of a matrix, one for each sequence of a step.
    Rows {
        /// The number of rows.
        rows: usize,
        /// The matrix.
        matrix: Matrix,
        /// The dtype of activations.
        dtype: Dtype,
    },
}

/// A matrix to multiply by.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// A model's own. At most a few million of the products are computed in float64.
    Given(Weight),
    /// Random numbers (out, in), in codes of 4 bits with groups of this size.
    Random {
        /// Rows of the matrix.
        out: usize,
        /// Its columns.
        within: usize,
        /// The size of a group.
        group: usize,
    },
}

/// The result of a check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The check, in words.
    pub case: String,
    /// The kernel that was checked.
    pub kernel: Kernel,
    /// The largest error relative to the largest value; infinity if the kernel failed.
    pub error: f64,
    /// The largest error that is allowed.
    pub bound: f64,
    /// The shortest time of an evaluation, after the first.
    pub time: Duration,
    /// The bytes of all inputs and outputs.
    pub bytes: usize,
    /// The error of the operation, if it failed.
    pub failure: Option<String>,
}

impl Outcome {
    /// Returns true if the error is within its bound.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }

    /// Returns the speed at which inputs are read and outputs written; 0 if the operation failed.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Outcome {
    /// Writes a row below [`HEADING`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, error, bound, .. } = self;
        let (time, speed) = (self.time.as_secs_f64() * 1e6, self.bytes_per_second() * 1e-9);
        write!(f, "{case:<64} {error:>8.1e} {bound:>8.1e} {time:>8.0} {speed:>7.1}")?;
        match &self.failure {
            Some(failure) => write!(f, "  <-- {}", failure.lines().next().unwrap_or_default()),
            None if !self.passed() => f.write_str("  <-- too large"),
            None => Ok(()),
        }
    }
}

/// The heading of a table of outcomes: the time is in microseconds.
pub const HEADING: &str = concat!(
    "case                                                                error    bound",
    "       us    GB/s"
);

/// The errors of a computation, each with its bound.
struct Measured {
    errors: Vec<(f64, f64)>,
    timed: Timed,
}

/// The results of an operation, its time and the bytes of inputs and results.
struct Timed {
    found: Vec<Array>,
    time: Duration,
    bytes: usize,
}

impl Check {
    /// Returns the kernel that computes it.
    pub fn kernel(&self) -> Kernel {
        match self {
            Self::Mixer(case) | Self::MixerGradient(case) => Kernel::mixer(case.l),
            Self::Swiglu { .. } => Kernel::Swiglu,
            Self::Norm { residual: true, .. } => Kernel::AddRmsNorm,
            Self::Norm { .. } => Kernel::RmsNorm,
            Self::Matmul { rows, .. } => Kernel::matmul(*rows),
            Self::RingAttention(_) => Kernel::RingAttention,
            Self::Draw { .. } => Kernel::Draw,
            Self::CrossEntropy { .. } => Kernel::CrossEntropy,
            Self::Blocks(_) => Kernel::Blocks,
            Self::Rows { .. } => Kernel::Rows,
        }
    }

    /// Returns the dtype of its activations.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Mixer(case) | Self::MixerGradient(case) => case.dtype,
            Self::RingAttention(ring) => ring.dtype,
            Self::Blocks(step) => step.dtype,
            Self::Swiglu { dtype, .. }
            | Self::Norm { dtype, .. }
            | Self::Matmul { dtype, .. }
            | Self::Rows { dtype, .. }
            | Self::Draw { dtype, .. }
            | Self::CrossEntropy { dtype, .. } => *dtype,
        }
    }

    /// Returns true if `backend` has a kernel for the operation, and takes the dtype.
    pub fn applies(&self, backend: Backend) -> bool {
        if let Self::MixerGradient(_) = self {
            return backend.differentiable() != Backend::PLAIN;
        }
        backend.kernels().contains(self.kernel()) && backend.takes(self.dtype()).is_ok()
    }

    /// Computes it on `backend`. Errors in float32 may be `float32`, such as [`FLOAT32`]; in 16 bits
    /// twice those of plain MLX operations, or a unit in the last place.
    pub fn run(&self, backend: Backend, float32: f64) -> Outcome {
        let (case, kernel) = (self.to_string(), self.kernel());
        match self.measure(backend, float32) {
            Ok(Measured { errors, timed: Timed { time, bytes, .. } }) => {
                let excess = |&(error, bound): &(f64, f64)| error / bound.max(1e-12);
                let worst = errors.into_iter().max_by(|a, b| excess(a).total_cmp(&excess(b)));
                let (error, bound) = worst.unwrap_or((0.0, float32));
                Outcome { case, kernel, error, bound, time, bytes, failure: None }
            }
            Err(failure) => self.failed(failure.to_string()),
        }
    }

    /// Returns the outcome of a check that failed for a reason.
    pub fn failed(&self, reason: String) -> Outcome {
        Outcome {
            case: self.to_string(),
            kernel: self.kernel(),
            error: f64::INFINITY,
            bound: self.last_place(FLOAT32),
            time: Duration::ZERO,
            bytes: 0,
            failure: Some(reason),
        }
    }

    /// Returns the worth of a unit in the last place of its dtype, for float32 `float32`.
    fn last_place(&self, float32: f64) -> f64 {
        match self.dtype() {
            Dtype::Float16 => 1.0 / 2048.0,
            Dtype::Bfloat16 => 1.0 / 256.0,
            _ => float32,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = self.dtype();
        match self {
            Self::Mixer(case) => operations::write_mixer(f, case),
            Self::MixerGradient(case) => {
                f.write_str("gradient of ")?;
                operations::write_mixer(f, case)
            }
            Self::Swiglu { rows, width, .. } => write!(f, "swiglu {dtype:?} {rows} x {width}"),
            Self::Norm { residual, rows, width, .. } => {
                let name = if *residual { "residual norm" } else { "norm" };
                write!(f, "{name} {dtype:?} {rows} x {width}")
            }
            Self::Rows { rows, matrix, .. } => write!(f, "rows {dtype:?} {rows} of {matrix}"),
            Self::Matmul { rows, matrix, .. } => write!(f, "matmul {dtype:?} {rows} x {matrix}"),
            Self::RingAttention(ring) => {
                let Ring { h, g, k, room, read, .. } = ring;
                let b = ring.positions.len();
                write!(
                    f,
                    "ring attention {dtype:?} b={b} h={h} g={g} k={k} room={room} read={read}"
                )
            }
            Self::Draw { vocab, .. } => write!(f, "draw {dtype:?} {vocab}"),
            Self::Blocks(Step {
                b, d, hidden, group, dims: crate::Dims { h, p, n, .. }, ..
            }) => {
                write!(
                    f,
                    "blocks {dtype:?} b={b} d={d} hidden={hidden} h={h} p={p} n={n} g={group}"
                )
            }
            Self::CrossEntropy { rows, vocab, temperature, .. } => {
                write!(f, "cross entropy {dtype:?} {rows} x {vocab} T={temperature}")
            }
        }
    }
}

/// Measures the speed of the current device's memory, which limits that of kernels: the bytes per
/// second that a GPU reads and writes when it copies, or that all threads of a CPU read.
///
/// # Errors
/// Those of MLX, of too little memory for example.
pub fn memory_speed() -> Result<f64, Failure> {
    if matches!(current_device()?, DeviceType::Cpu) {
        return Ok(cpu::read_bandwidth()?);
    }
    let x = Array::zeros::<f32>(&[1 << 26])?;
    let copied = timed(&[&x], || Ok(vec![x.negative()?]))?;
    Ok(copied.bytes as f64 / copied.time.as_secs_f64().max(1e-9))
}

/// Evaluates an operation with these inputs, and again for its time.
fn timed(
    inputs: &[&Array],
    operation: impl Fn() -> Result<Vec<Array>, Failure>,
) -> Result<Timed, Failure> {
    mlx_rs::transforms::eval(inputs.iter().copied())?;
    let found = operation()?;
    mlx_rs::transforms::eval(&found)?;
    let mut time = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        mlx_rs::transforms::eval(&operation()?)?;
        time = time.min(start.elapsed());
    }
    let bytes = inputs.iter().copied().chain(&found).map(|array| array.nbytes()).sum();
    Ok(Timed { found, time, bytes })
}
