//! The operations of Llamba and of its training, as lazy MLX graphs.
//!
//! A [`Backend`] computes them. [`Backend::mixer`] is all of a Discrete-Mamba-2 mixer between its
//! two projections; the other operations are matrix multiplication, the activation of the MLP,
//! norms, softmax, attention to a ring of texts, the draw of a token, cross entropy with its gradient,
//! and a step of AdamW. [`oracle`] defines in
//! plain float64 loops what a mixer computes. [`Quantized`] is a matrix in MLX's group
//! quantization. [`mlx`] has the calls into MLX that `mlx-rs` does not offer.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod adamw;
mod attention;
mod backend;
mod blocks;
pub mod check;
mod convolution;
pub mod cpu;
mod cross_entropy;
pub mod cuda;
mod dims;
mod draw;
mod elementwise;
mod fallback;
pub mod gpu;
mod kernel;
mod metal;
mod mixer;
pub mod mlx;
mod operations;
pub mod oracle;
mod packed;
mod plain;
mod quantized;
mod random_key;
pub mod scan;
mod select;
mod ssd;
mod weight;

pub use adamw::{AdamWResult, AdamWStep};
pub use attention::RingAttention;
pub use backend::Backend;
pub use blocks::{BlockArgs, BlocksArgs, LinearArgs};
pub use cross_entropy::{CrossEntropy, CrossEntropyOptions};
pub use dims::{Activation, Dims, ShapeError};
pub use draw::Draw;
pub use kernel::{Kernel, Kernels};
pub use mixer::{Mixed, MixerError, MixerInput, MixerState, MixerWeights};
pub use operations::Activations;
pub use packed::Packed;
pub use quantized::{Mode, QuantizationError, Quantized, Scheme};
pub use random_key::RandomKey;
pub use select::{BackendError, VARIABLE};
pub use ssd::CHUNK;
pub use weight::Weight;
