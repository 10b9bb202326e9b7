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

const TOKENIZER: &[u8] = include_bytes!(asset!("tokenizer.json"));
const TOKENIZER_CONFIG: &[u8] = include_bytes!(asset!("tokenizer_config.json"));
const CHAT_TEMPLATE: &[u8] = include_bytes!(asset!("chat_template.jinja"));
const GENERATION_CONFIG: &[u8] = include_bytes!(asset!("generation_config.json"));

/// The checkpoint, in place: nothing is copied until MLX reads it.
pub(crate) fn checkpoint() -> Result<Checkpoint> {
    let config = include_str!(asset!("config.json"));
    let weights = include_bytes!(asset!("model.safetensors"));
    Ok(Checkpoint::from_static(NAME, config, weights)?.with_companions(&[
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", TOKENIZER_CONFIG),
        ("generation_config.json", GENERATION_CONFIG),
        ("chat_template.jinja", CHAT_TEMPLATE),
    ]))
}

/// Its tokenizer.
pub(crate) fn tokenizer() -> Result<Tokenizer> {
    let files = TokenizerFiles {
        tokenizer: TOKENIZER.to_vec(),
        tokenizer_config: Some(TOKENIZER_CONFIG.to_vec()),
        generation_config: Some(GENERATION_CONFIG.to_vec()),
        chat_template: Some(CHAT_TEMPLATE.to_vec()),
    };
    Tokenizer::from_files(NAME, &files)
}
