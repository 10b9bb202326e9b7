//! Transformers that Llambas are distilled from: Llama, Mistral, Qwen2, Qwen3 and Phi-3.
//!
//! RMSNorm, attention with grouped key/value heads and rotary positions, SwiGLU.
//!
//! Source: Llama (arXiv 2302.13971), Llama 3 (arXiv 2407.21783); names of tensors and of the
//! configuration's fields as in the checkpoints on Hugging Face.

mod attention;
mod bundle;
mod cache;
mod check;
mod config;
mod error;
mod factors;
mod forward;
mod gguf;
mod init;
mod inspect;
mod language;
mod limits;
mod llama;
mod longrope;
mod mask;
mod open;
mod parameters;
mod random;
mod rope;
mod save;
mod stored;
mod yarn;

pub use bundle::{Teacher, open_tokenizer, tokenizer_of};
pub use cache::KvCache;
pub use config::LlamaConfig;
pub use error::{Error, Result};
pub use forward::{Trace, Wanted};
pub use gguf::gguf_tokenizer;
pub use init::init;
pub use inspect::TeacherSummary;
pub use llama::Llama;
pub use longrope::LongRope;
pub use mask::Window;
pub use open::is_teacher;
pub use parameters::Parameters;
pub use random::Preset;
pub use rope::Rope;
pub use save::save;
pub use yarn::Yarn;
