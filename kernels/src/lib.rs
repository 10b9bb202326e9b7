//! The Discrete-Mamba-2 operations of Llamba, as lazy MLX graphs.
//!
//! A [`Backend`] computes the four operations of a block: [`Backend::mixer`] is the whole of a
//! mixer between its two projections, the others are matrix products, the activation of the MLP,
//! and a residual connection with the norm after it. [`oracle`] says in plain float64 loops what a
//! mixer must compute; [`Quantized`] is a matrix in MLX's group quantization.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod adamw;
mod backend;
mod convolution;
pub mod cpu;
mod cross_entropy;
mod dims;
mod elementwise;
mod fallback;
pub mod gpu;
mod metal;
mod mixer;
pub mod mlx;
mod operations;
pub mod oracle;
mod plain;
mod quantized;
pub mod scan;
mod select;
mod ssd;
mod weight;

pub use adamw::AdamWStep;
pub use backend::Backend;
pub use cross_entropy::{Comparison, Slopes};
pub use dims::{Activation, Dims, ShapeError};
pub use mixer::{Mixed, MixerError, MixerInput, MixerState, MixerWeights};
pub use operations::Activations;
pub use quantized::{Mode, QuantizationError, Quantized, Scheme};
pub use select::{BackendError, VARIABLE};
pub use ssd::CHUNK;
pub use weight::Weight;
