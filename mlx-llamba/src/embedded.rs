//! The built-in model, which writes small stories.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::files::TokenizerFiles;
use crate::tokenizer::Tokenizer;

/// The name of the built-in model, in messages and in place of a path.
pub const NAME: &str = "llamba-stories";

macro_rules! asset {
    ($file:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llamba-stories/", $file)
    };
}

/// The files beside the weights.
fn files() -> TokenizerFiles {
    TokenizerFiles::default()
        .with("tokenizer.json", &include_bytes!(asset!("tokenizer.json"))[..])
        .with("tokenizer_config.json", &include_bytes!(asset!("tokenizer_config.json"))[..])
        .with("generation_config.json", &include_bytes!(asset!("generation_config.json"))[..])
        .with("chat_template.jinja", &include_bytes!(asset!("chat_template.jinja"))[..])
}

/// Opens the checkpoint in place: nothing is copied until MLX reads it.
pub(crate) fn checkpoint() -> Result<Checkpoint> {
    let config = include_str!(asset!("config.json"));
    let weights = include_bytes!(asset!("model.safetensors"));
    Ok(Checkpoint::from_static(NAME, config, weights)?.with_tokenizer_files(files()))
}

/// Loads its tokenizer.
pub(crate) fn tokenizer() -> Result<Tokenizer> {
    Tokenizer::from_files(NAME, &files())
}
