//! Llamba recurrent language models on Apple's MLX.
//!
//! [Llamba](https://arxiv.org/abs/2502.14458) is Llama-3 with its attention replaced by
//! Discrete-Mamba-2. The model's memory of a text is a [`State`] of constant size: 8 to 34 MiB for
//! the published models, however long the text. A state is a value: clone it, save it, continue
//! from it.
//!
//! ```
//! use mlx_llamba::{Generation, Llamba};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The built-in model. Others are loaded from a directory or from the hub:
//! // Llamba::builder("cartesia-ai/Llamba-1B-4bit-mlx")
//! //     .tokenizer("meta-llama/Llama-3.2-1B-Instruct").load()?
//! let llamba = Llamba::embedded().load()?;
//!
//! let story = llamba.generate("Once upon a time", &Generation::default().max_tokens(20).seed(7))?;
//! println!("{}", story.text);
//!
//! // Continue from there in two ways; nothing is read again.
//! let options = Generation::default().max_tokens(8);
//! let fork = story.context.clone();
//! let happy = llamba.resume(story.context, " Then she laughed", &options)?.finish()?;
//! let sad = llamba.resume(fork, " Then she cried", &options)?.finish()?;
//! assert_eq!(happy.context.read(), sad.context.read());
//! # Ok(())
//! # }
//! ```
//!
//! # Overview
//!
//! | task | see |
//! |---|---|
//! | load a model and generate | [`Llamba`], [`Generation`], [`Stream`], [`Event`] |
//! | choose tokens | [`Sampling`], with the order of its steps; [`LogitsProcessor`] for ways of your own |
//! | write JSON of a schema, or by a grammar | [`mod@constraint`] |
//! | run many generations at once | [`Batch`], [`mod@decode::batch`] |
//! | save, load and fork a position in a text | [`Context`] |
//! | hold a conversation | [`Session`], [`mod@session`], [`Template`] |
//! | cache states after shared prefixes | [`PrefixCache`] |
//! | call the model as a function `(tokens, State) -> (logits, State)` | [`Model`] |
//! | open a checkpoint of any layout | [`Checkpoint`], [`mod@checkpoint`] |
//! | quantize, convert | [`quantize`](mod@quantize), [`convert`](mod@convert) |
//! | measure perplexity, the loss of quantization, answers to questions | [`evaluate`] |
//! | check the kernels of a GPU when a model is loaded | [`kernel_check`] |
//! | generate with another architecture | [`LanguageModel`] |
//! | use arrays, dtypes and memory counters of MLX | [`mlx`] |
//!
//! The recurrence itself is in the crate `mlx-llamba-kernels`.
//!
//! # Threads
//!
//! A [`Llamba`] and its [`Builder`] can be moved to another thread, for example into tokio's
//! `spawn_blocking`, but not shared between threads: MLX arrays belong to one thread at a time. The
//! crate `mlx-llamba-engine` owns a model on a thread and serves any number of async callers.
//!
//! Each model computes on the device that it was loaded for ([`Compute`]), whatever the default
//! device of the process is.
//!
//! # Features
//!
//! - `metal`: run on Apple GPUs.
//! - `chat` (default): chat templates, and sessions, which use them.
//! - `constraints` (default): constrain texts to JSON of a schema, grammars, choices.
//! - `embedded-model` (default): include the built-in model, 7.8 MiB.
//! - `hub` (default): download models from the hub.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod block;
pub mod checkpoint;
pub mod config;
#[cfg(feature = "constraints")]
pub mod constraint;
mod context;
pub mod convert;
pub mod decode;
#[cfg(feature = "embedded-model")]
mod embedded;
mod embedding;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod follow;
pub mod gpu_memory;
mod host;
#[cfg(feature = "hub")]
pub mod hub;
pub mod inspect;
pub mod kernel_check;
mod language;
pub mod linear;
mod llamba;
mod model;
mod named;
pub mod names;
mod needs;
pub mod pieces;
pub mod prefix_cache;
pub mod progress;
pub mod quantize;
pub mod random;
pub mod row_layout;
pub mod sample;
#[cfg(feature = "chat")]
pub mod session;
#[cfg(feature = "chat")]
pub mod snapshots;
mod state;
pub mod store;
#[cfg(feature = "chat")]
pub mod template;
// Without chat templates, nothing reads the templates that a tokenizer has.
#[cfg_attr(not(feature = "chat"), allow(dead_code))]
pub mod tokenizer;
mod tokens;
#[cfg(feature = "chat")]
pub mod tool_calls;
pub mod units;
mod weights;

/// The guide's chapter on Rust and the project's README: their examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../guide/src/rust.md")]
#[doc = include_str!("../../README.md")]
struct Guide;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use context::Context;
pub use decode::batch::Batch;
pub use decode::generation::{Cancel, Completion, Event, Generation, Reason, Stats};
pub use decode::processor::LogitsProcessor;
pub use decode::stream::Stream;
#[cfg(feature = "embedded-model")]
pub use embedded::NAME as EMBEDDED_MODEL;
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use language::{LanguageModel, ReadOne};
pub use llamba::{Builder, Compute, Llamba, Prompt};
pub use model::Model;
pub use prefix_cache::PrefixCache;
pub use sample::Sampling;
#[cfg(feature = "chat")]
pub use session::{Reply, Session};
pub use state::State;
#[cfg(feature = "chat")]
pub use template::{ChatOptions, Message, Template};
pub use tokenizer::Tokenizer;

/// MLX's own types, as this library uses them.
pub mod mlx {
    pub use crate::host::floats;
    pub use mlx_llamba_kernels::mlx::{Blas, Runtime, current_device, is_available, on_device};
    /// The crate `mlx-rs`, in the version that this library is built with.
    pub use mlx_rs;
    pub use mlx_rs::{Array, DeviceType, Dtype, memory};
}

/// Back ends, dimensions and quantized matrices: the crate `mlx-llamba-kernels`.
pub mod kernels {
    pub use mlx_llamba_kernels::{
        Activation, Activations, Backend, Dims, Kernel, Kernels, Mode, Packed, Quantized, Scheme,
        Weight, check,
    };
}
