//! Llamba models for Python and Swift: one definition, from which UniFFI generates the bindings of both.
//!
//! A [`Llamba`] is a handle to an engine, whose thread owns the model: all objects can be used from any
//! thread, and what several threads ask for is computed together.
//!
//! | to | see |
//! |---|---|
//! | load, generate, embed | [`Llamba`] |
//! | read a text as it is generated | [`TokenStream`] |
//! | hold a conversation | [`Chat`] |
//! | quantize a checkpoint | [`quantize`] |

// The macros of UniFFI have functions take ownership of their arguments.
#![allow(clippy::needless_pass_by_value)]

mod chat;
mod error;
mod model;
mod options;
mod quantize;
mod stream;

pub use chat::{Chat, Message};
pub use error::{LlambaError, Result};
pub use model::Llamba;
pub use options::{GenerationOptions, LoadOptions};
pub use quantize::{QuantizeOptions, QuantizeProgress, Quantized, quantize};
pub use stream::{End, Piece, Reply, TokenStream};

uniffi::setup_scaffolding!("mlx_llamba_native");
