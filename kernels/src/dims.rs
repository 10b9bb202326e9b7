//! The sizes of a mixer, and the check of one shape.

use serde::{Deserialize, Serialize};

/// Activation after the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// No activation, as in all published models.
    Identity,
    /// `x * sigmoid(x)`.
    #[serde(alias = "swish")]
    Silu,
}

/// Sizes of a Discrete-Mamba-2 mixer.
///
/// One letter, one meaning, everywhere: `b` batch, `l` length, `h` value heads, `g` query/key
/// groups, `p` head dimension, `n` state, `k` convolution width, `q` chunk length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Value heads.
    pub h: usize,
    /// Query/key groups; divides `h`. Head `i` uses group `i / (h / g)`.
    pub g: usize,
    /// Head dimension.
    pub p: usize,
    /// State dimension.
    pub n: usize,
    /// Convolution width.
    pub k: usize,
}

impl Dims {
    /// Width of x, y and z, `h * p`.
    pub const fn d_inner(&self) -> usize {
        self.h * self.p
    }

    /// Channels of the convolution: `x`, `B` and `C` side by side.
    pub const fn conv_dim(&self) -> usize {
        self.d_inner() + 2 * self.g * self.n
    }

    /// Rows of `in_proj`: `xBC`, `z` and `A_log` side by side, in this order.
    pub const fn in_proj_dim(&self) -> usize {
        self.conv_dim() + self.d_inner() + self.h
    }

    /// Bytes of one sequence's state in one layer: the recurrent state in float32, the
    /// convolution's with `conv_bytes` per element.
    pub const fn state_bytes(&self, conv_bytes: usize) -> usize {
        4 * self.h * self.p * self.n + conv_bytes * (self.k - 1) * self.conv_dim()
    }
}

/// An array with a wrong shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{array} has shape {found:?}, expected {expected}")]
pub struct ShapeError {
    /// Name of the array, as the documentation spells it.
    pub array: &'static str,
    /// The shape found.
    pub found: Vec<i32>,
    /// The expected shape, in numbers.
    pub expected: String,
}

/// Checks the shape of one array.
pub(crate) fn expect(
    array: &'static str,
    found: &mlx_rs::Array,
    expected: &[usize],
) -> Result<(), ShapeError> {
    let same = found.ndim() == expected.len()
        && found.shape().iter().zip(expected).all(|(&f, &e)| usize::try_from(f) == Ok(e));
    if same {
        return Ok(());
    }
    Err(ShapeError { array, found: found.shape().to_vec(), expected: format!("{expected:?}") })
}
