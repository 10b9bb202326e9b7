//! Llamba recurrent language models on Apple's MLX.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod atomic;
mod checkpoint;
mod config;
mod context;
mod error;
mod ffi;
mod host;
mod linear;
mod model;
mod sample;
mod state;

pub use checkpoint::{Checkpoint, Layout, TensorInfo};
pub use config::{Config, Mlp, Quantization, Ssm};
pub use context::Context;
pub use error::{Error, FieldProblem, Result, TensorProblem};
pub use host::floats;
pub use model::Model;
pub use sample::{Logprobs, Sampler, Sampling};
pub use state::State;
