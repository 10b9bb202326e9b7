//! The functions inside plain operations that MLX computes slowly on a CPU.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::sigmoid;

use crate::cpu;

/// What computes `exp` and gates; both have gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elementwise {
    /// MLX's operations: any device and dtype.
    Mlx,
    /// The CPU kernels: float32.
    Cpu,
}

impl Elementwise {
    pub(crate) fn exp(self, x: &Array) -> Result<Array> {
        match self {
            Self::Mlx => mlx_rs::ops::exp(x),
            Self::Cpu => cpu::exp(x),
        }
    }

    /// `silu(gate) * up`
    pub(crate) fn gate(self, gate: &Array, up: &Array) -> Result<Array> {
        match self {
            Self::Mlx => silu(gate)?.multiply(up),
            Self::Cpu => cpu::gate(gate, up),
        }
    }
}

/// `x * sigmoid(x)`, without `mx.compile`: on a CPU that calls a C++ compiler at run time.
pub(crate) fn silu(x: &Array) -> Result<Array> {
    x.multiply(sigmoid(x)?)
}
