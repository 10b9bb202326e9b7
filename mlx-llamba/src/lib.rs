//! Llamba recurrent language models on Apple's MLX.

mod checkpoint;
mod config;
mod error;
mod ffi;
mod sample;

pub use checkpoint::{Checkpoint, Layout, TensorInfo};
pub use config::{Config, Mlp, Quantization, Ssm};
pub use error::{Error, FieldProblem, Result, TensorProblem};
pub use sample::{Logprobs, Sampler, Sampling};
