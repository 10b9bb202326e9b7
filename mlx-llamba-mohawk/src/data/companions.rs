//! A tokenizer with the files that belong to it.

use std::path::Path;

use mlx_llamba::Tokenizer;
use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::files::hash::hex;
use sha2::{Digest, Sha256};

use crate::Result;
use mlx_llamba_teacher::gguf_tokenizer;

/// A tokenizer and its files.
#[derive(Debug, Clone)]
pub struct Companions {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The files for the directory of a model with this tokenizer.
    pub files: TokenizerFiles,
    /// SHA-256 over the files that determine token ids.
    pub hash: String,
}

impl Companions {
    /// Opens a directory with a `tokenizer.json`, such a file, or a GGUF file.
    ///
    /// # Errors
    /// Those of [`TokenizerFiles::of_model`], [`gguf_tokenizer`] and [`Tokenizer::from_files`].
    pub fn open(path: &Path) -> Result<Self> {
        let (name, files) = if path.is_dir() {
            (path.join("tokenizer.json"), TokenizerFiles::of_model(path)?)
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            (path.to_owned(), gguf_tokenizer(path)?)
        } else {
            (path.to_owned(), TokenizerFiles::beside(path)?)
        };
        let tokenizer = Tokenizer::from_files(&name, &files)?;
        Ok(Self { tokenizer, hash: hash(&files), files })
    }
}

fn hash(files: &TokenizerFiles) -> String {
    let mut hasher = Sha256::new();
    // A template does not change the ids of a text.
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let bytes = files.get(name).unwrap_or_default();
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hex(&hasher.finalize())
}
