//! Llamas in GGUF files, as llama.cpp writes them.
//!
//! Source: the GGUF specification of the ggml project, versions 2 and 3. Files are parsed here
//! completely, without another parser.

mod blocks;
mod cursor;
mod file;
mod kquants;
mod model;
mod tokenizer;

pub(super) use file::MAGIC;
pub(super) use model::Gguf;

use std::path::Path;

use mlx_llamba::files::TokenizerFiles;

use crate::error::Result;

/// Returns the tokenizer in the metadata of a GGUF file, as the files of a directory:
/// `tokenizer.json`, and `tokenizer_config.json` with the chat template.
///
/// # Errors
/// [`Error::Gguf`](crate::Error::Gguf) for a damaged file;
/// [`Error::TokenizerKind`](crate::Error::TokenizerKind) for a tokenizer that is neither byte-level
/// BPE nor SentencePiece's, or cuts words in an unknown way.
pub fn gguf_tokenizer(path: &Path) -> Result<TokenizerFiles> {
    let (sources, file) = file::File::open(path)?;
    tokenizer::files(path, &file.metadata, sources[0].bytes())
}
