//! Llamba recurrent language models on Apple's MLX.
//!
//! [Llamba](https://arxiv.org/abs/2502.14458) is Llama-3 with its attention replaced by
//! Discrete-Mamba-2. All that the model remembers of a text is a [`State`] of constant size: 8 to
//! 34 MiB for the published models, however long the text. A state is a value; it can be cloned,
//! saved and gone on from.
//!
//! ```
//! use mlx_llamba::{Generation, Llamba};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The small model that the library carries. Others come from a directory or from the hub:
//! // Llamba::builder("cartesia-ai/Llamba-1B-4bit-mlx")
//! //     .tokenizer("meta-llama/Llama-3.2-1B-Instruct").load()?
//! let llamba = Llamba::embedded().load()?;
//!
//! let story = llamba.generate("Once upon a time", &Generation::default().max_tokens(20).seed(7))?;
//! println!("{}", story.text);
//!
//! // Go on from there, in two ways; nothing is read again.
//! let options = Generation::default().max_tokens(8);
//! let fork = story.context.clone();
//! let happy = llamba.resume(story.context, " Then she laughed", &options)?.finish()?;
//! let sad = llamba.resume(fork, " Then she cried", &options)?.finish()?;
//! assert_eq!(happy.context.read(), sad.context.read());
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! | to | see |
//! |---|---|
//! | load a model and generate | [`Llamba`], [`Generation`], [`Stream`], [`Event`] |
//! | choose tokens | [`Sampling`], [`sample`] for the order of its steps |
//! | run many generations at once | [`Batch`] |
//! | save, load and fork a place in a text | [`Context`] |
//! | hold a conversation | [`Session`], [`Template`] |
//! | not read the same beginning twice | [`PrefixCache`] |
//! | call the model as a function `(tokens, State) -> (logits, State)` | [`Model`] |
//! | open a checkpoint of any layout | [`Checkpoint`], [`Summary`] |
//! | quantize, convert | [`quantize()`], [`convert()`] |
//! | measure perplexity, what quantizing costs, answers to questions | [`evaluate`], [`compare`] |
//! | generate with another architecture | [`LanguageModel`] |
//!
//! The recurrence itself is in the crate `mlx-llamba-kernels`.
//!
//! # Threads
//!
//! A [`Llamba`] may be moved to another thread and used there, not shared between threads: MLX
//! arrays belong to one thread at a time.
//!
//! # Features
//!
//! - `metal`: run on Apple GPUs.
//! - `embedded-model` (default): carry the small model, 3.8 MB.

// The paper's matrices keep their upper-case names.
#![allow(non_snake_case)]

mod block;
mod checkpoint;
mod config;
mod context;
mod convert;
mod decode;
#[cfg(feature = "embedded-model")]
mod embedded;
mod error;
pub mod evaluate;
pub mod files;
mod follow;
mod host;
pub mod hub;
mod inspect;
mod language;
mod linear;
mod llamba;
mod model;
mod named;
pub mod names;
mod needs;
mod pieces;
mod prefix_cache;
mod quantize;
mod random;
mod row_layout;
pub mod sample;
mod session;
mod setters;
mod snapshots;
mod state;
mod store;
mod template;
mod tokenizer;
mod tokens;
mod weights;

/// The guide's chapter on Rust: its examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../guide/src/rust.md")]
struct Guide;

pub use checkpoint::{Checkpoint, Layout};
pub use config::{Config, Mlp, Quantization, Ssm};
pub use context::Context;
pub use convert::{Conversion, convert, convert_with};
/// Many generations in shared forward passes.
pub mod batch {
    pub use crate::decode::batch::{Batch, BatchEvent, BatchRequest, RequestId, Step};
}
pub use decode::batch::Batch;
pub use decode::detokenize::Detokenizer;
pub use decode::generation::{Cancel, Completion, Event, Generation, Reason, Stats, TokenLogprobs};
pub use decode::stop::StopMatcher;
pub use decode::stream::Stream;
#[cfg(feature = "embedded-model")]
pub use embedded::NAME as EMBEDDED_MODEL;
pub use error::{Error, FieldProblem, Result, TensorProblem};
pub use evaluate::{Comparison, Evaluation, NegativeLogLikelihood, Window, compare};
pub use files::{FloatTensor, TokenizerFiles};
pub use follow::{Follow, FollowReport};
pub use host::floats;
pub use hub::{HubOptions, HubProgress};
pub use inspect::Summary;
pub use language::LanguageModel;
pub use linear::{DtypePolicy, Linear, Matrix};
pub use llamba::{Builder, Compute, Llamba, Prompt};
pub use mlx_llamba_kernels::mlx::{Blas, Runtime};
pub use mlx_llamba_kernels::{
    Activation, Activations, Backend, Dims, Mode, Quantized, Scheme, Weight,
};
pub use mlx_rs::{Array, DeviceType, Dtype};
pub use model::Model;
pub use pieces::Pieces;
pub use prefix_cache::{PrefixCache, PrefixCacheStats, PrefixHit};
pub use quantize::{Override, QuantizeOptions, QuantizeReport, Recipe, quantize, quantize_with};
pub use random::Preset;
pub use row_layout::RowLayout;
pub use sample::{Logprobs, Sampler, Sampling};
pub use session::{
    Reply, Session, SessionFile, SessionInfo, SessionStats, Turn, TurnDraft, TurnPlan,
};
pub use snapshots::SnapshotBudget;
pub use state::State;
pub use store::{OnProgress, Progress};
pub use template::{ChatOptions, Json, Message, Template};
pub use tokenizer::{Rendered, Tokenizer};
