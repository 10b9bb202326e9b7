//! Files of models of any architecture: safetensors headers and lazy tensors, directories and
//! files that appear complete or not at all, checksums, JSON fields.
//!
//! For crates that read and write models other than Llamba.

pub mod atomic;
mod fields;
mod floats;
pub mod hash;
pub(crate) mod header;
mod index;
pub mod json;
mod lazy;
mod map;
pub(crate) mod open;
mod output;
pub(crate) mod scan;
pub(crate) mod sealed;
mod source;
mod stored;
mod tensors;
mod tokenizer_files;
mod weights;

pub use atomic::AtomicFile;
pub(crate) use fields::token_ids;
pub use fields::{Fields, Problems};
pub use floats::{FloatTensor, float_bytes, floats_of};
pub use header::{Views, most_entries, views};
pub use map::Map;
pub use output::Output;
#[doc(hidden)]
pub use sealed::resealed;
pub use source::{Source, open as open_file, read, read_text};
pub(crate) use stored::mlx_dtype;
pub use stored::{StoredTensor, TensorHeader};
pub use tensors::TensorFiles;
pub use tokenizer_files::TokenizerFiles;
pub use weights::WeightFiles;
