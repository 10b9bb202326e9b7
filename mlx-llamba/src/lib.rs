//! Llamba recurrent language models on Apple's MLX.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod atomic;
mod checkpoint;
mod config;
mod context;
mod convert;
mod detokenize;
#[cfg(feature = "embedded-model")]
mod embedded;
mod error;
mod evaluate;
mod ffi;
mod floats;
mod generation;
mod host;
pub mod hub;
mod inspect;
mod linear;
mod llamba;
mod model;
mod quantize;
mod random;
mod sample;
mod stop;
mod tokenizer;
mod state;
mod store;
mod stream;

pub use checkpoint::{Checkpoint, Layout, TensorInfo};
pub use config::{Config, Mlp, Quantization, Ssm};
pub use context::Context;
pub use detokenize::Detokenizer;
#[cfg(feature = "embedded-model")]
pub use embedded::NAME as EMBEDDED_MODEL;
pub use error::{Error, FieldProblem, Result, TensorProblem};
pub use evaluate::{Comparison, compare};
pub use floats::FloatTensor;
pub use generation::{
    Cancel, Completion, Event, Generation, Reason, Stats, TokenLogprobs,
};
pub use host::floats;
pub use hub::{HubOptions, HubProgress};
pub use llamba::{Builder, Compute, Llamba, Prompt};
pub use model::Model;
pub use random::Preset;
pub use sample::{Logprobs, Sampler, Sampling};
pub use stop::StopMatcher;
pub use tokenizer::{Tokenizer, TokenizerFiles};
pub use state::State;
pub use stream::Stream;
pub use convert::{Conversion, convert};
pub use inspect::Summary;
pub use quantize::{Override, QuantizeOptions, QuantizeReport, Recipe, quantize};
pub use store::{OnProgress, Progress};
