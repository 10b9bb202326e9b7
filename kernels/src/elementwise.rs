//! The functions inside plain operations that a back end may compute in its own way.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::sigmoid;

/// Implementations of `exp` and of a gate; both have gradients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Functions {
    /// `e^x`
    pub(crate) exp: fn(&Array) -> Result<Array>,
    /// `silu(gate) * up`
    pub(crate) gate: fn(&Array, &Array) -> Result<Array>,
}

impl Functions {
    /// MLX's own operations: any device and dtype.
    pub(crate) const MLX: Self =
        Self { exp: |x| mlx_rs::ops::exp(x), gate: |gate, up| silu(gate)?.multiply(up) };
}

/// `x * sigmoid(x)`, without `mx.compile`: on a CPU that calls a C++ compiler at run time.
pub(crate) fn silu(x: &Array) -> Result<Array> {
    x.multiply(sigmoid(x)?)
}
