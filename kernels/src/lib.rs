//! The Discrete-Mamba-2 operations of Llamba, as lazy MLX graphs.
//!
//! [`mixer`] is the whole of a mixer between its two projections; [`oracle`] says in plain
//! float64 loops what it must compute; [`Quantized`] is a matrix in MLX's group quantization.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod dims;
mod ffi;
mod mixer;
pub mod oracle;
mod quantized;
mod ssd;

pub use dims::{Activation, Dims, ShapeError};
pub use mixer::{Mixed, MixerError, MixerState, MixerWeights, mixer};
pub use quantized::{Mode, QuantizationError, Quantized, Scheme};
pub use ssd::CHUNK;

/// What computes [`mixer`] in this build, for people.
pub const PATH: &str = "plain MLX operations";
