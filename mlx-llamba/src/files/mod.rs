//! Files of models of any architecture: safetensors headers and lazy tensors, directories and
//! files that appear complete or not at all, checksums, JSON fields.
//!
//! For crates that read and write models other than Llamba.

pub mod atomic;
mod fields;
mod floats;
pub mod hash;
pub(crate) mod header;
mod lazy;
mod map;
pub(crate) mod open;
mod output;
pub(crate) mod scan;
pub(crate) mod sealed;
mod source;
mod tensors;
mod weights;

pub use atomic::AtomicFile;
pub use fields::{Fields, Problems};
pub use floats::{FloatTensor, float_bytes, floats_of};
pub(crate) use lazy::{Tensor, array};
pub use map::Map;
pub use output::Output;
pub use source::Source;
pub use tensors::{TensorFiles, lazy};
pub use weights::{Planned, WeightFiles};

/// Files beside the weights that a user of the model needs.
pub const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
