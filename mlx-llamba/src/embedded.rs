//! The small story-telling model that the library carries, so that it runs with nothing else.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::tokenizer::{Tokenizer, TokenizerFiles};

/// Its name, in messages and as a path that does not exist.
pub const NAME: &str = "llamba-stories";

macro_rules! asset {
    ($file:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llamba-stories/", $file)
    };
}

/// The checkpoint, in place: nothing is copied until MLX reads it.
pub(crate) fn checkpoint() -> Result<Checkpoint> {
    let config = include_str!(asset!("config.json"));
    Checkpoint::from_static(NAME, config, include_bytes!(asset!("model.safetensors")))
}

/// Its tokenizer.
pub(crate) fn tokenizer() -> Result<Tokenizer> {
    let files = TokenizerFiles {
        tokenizer: include_bytes!(asset!("tokenizer.json")).to_vec(),
        tokenizer_config: Some(include_bytes!(asset!("tokenizer_config.json")).to_vec()),
        generation_config: Some(include_bytes!(asset!("generation_config.json")).to_vec()),
    };
    Tokenizer::from_files(NAME, &files)
}
