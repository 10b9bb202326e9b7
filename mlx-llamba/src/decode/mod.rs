//! Decoding: a prompt is read in chunks (prefill), then tokens are sampled one after the other.
//!
//! A row is one continuation of a prompt: its sampler, its text and its position.
//! [`Stream`](stream::Stream) runs a single row of any [`LanguageModel`](crate::LanguageModel);
//! [`Batch`](batch::Batch) runs many rows of a [`Model`](crate::Model) in shared forward passes.
//! Both read prompts (`prefill.rs`) and sample (`decoding.rs`) by the same code, so a row's tokens
//! do not depend on which of them runs it.
//!
//! On a GPU decoding is pipelined: token t+1 is requested, with MLX's `async_eval`, before token t
//! is handed out, so that the device computes while the caller looks at a token. On a CPU MLX keeps
//! at most ten operations waiting, so a request takes about as long as its computation: there
//! token t is handed out first.

pub mod batch;
mod decoding;
pub mod detokenize;
pub mod generation;
mod pending;
mod prefill;
pub mod processor;
mod queue;
mod request;
mod row;
pub mod stop;
pub mod stream;
#[cfg(not(feature = "constraints"))]
mod unconstrained;

pub use prefill::prefill_of;
