//! A tokenizer with the files that belong to it, wherever they come from.

use std::path::Path;

use mlx_llamba::files::COMPANIONS;
use mlx_llamba::{Tokenizer, TokenizerFiles};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::train::io;
use mlx_llamba_teacher::gguf_tokenizer;

/// A tokenizer and its files.
#[derive(Debug, Clone)]
pub struct Companions {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Names and contents of the files that a model with this tokenizer has beside it.
    pub files: Vec<(String, Vec<u8>)>,
    /// SHA-256 over the files that decide what the tokenizer does.
    pub hash: String,
}

impl Companions {
    /// From a directory with a `tokenizer.json`, from such a file, or out of a GGUF file.
    ///
    /// # Errors
    /// [`crate::Error::Io`], and what reading a tokenizer reports.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let name = if path.is_dir() {
            for name in COMPANIONS {
                let file = path.join(name);
                if file.is_file() {
                    let bytes = std::fs::read(&file).map_err(io("read", &file))?;
                    files.push((name.to_owned(), bytes));
                }
            }
            path.join("tokenizer.json")
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            let TokenizerFiles { tokenizer, tokenizer_config, generation_config, .. } =
                gguf_tokenizer(path)?;
            let others = [
                ("tokenizer.json", Some(tokenizer)),
                ("tokenizer_config.json", tokenizer_config),
                ("generation_config.json", generation_config),
            ];
            let there = others.into_iter().filter_map(|(name, bytes)| Some((name.into(), bytes?)));
            files.extend(there);
            path.to_owned()
        } else {
            let bytes = std::fs::read(path).map_err(io("read", path))?;
            files.push(("tokenizer.json".to_owned(), bytes));
            for name in ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
                let file = path.with_file_name(name);
                if file.is_file() {
                    let bytes = std::fs::read(&file).map_err(io("read", &file))?;
                    files.push((name.to_owned(), bytes));
                }
            }
            path.to_owned()
        };
        let bytes = |name: &str| {
            files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.clone())
        };
        let Some(tokenizer) = bytes("tokenizer.json") else {
            // This says what to do.
            return Ok(Tokenizer::open(path).map(|tokenizer| Self {
                tokenizer,
                files: Vec::new(),
                hash: String::new(),
            })?);
        };
        let parts = TokenizerFiles {
            tokenizer,
            tokenizer_config: bytes("tokenizer_config.json"),
            generation_config: bytes("generation_config.json"),
            chat_template: bytes("chat_template.jinja"),
        };
        let tokenizer = Tokenizer::from_files(&name, &parts)?;
        Ok(Self { tokenizer, files, hash: hash(&parts) })
    }
}

fn hash(files: &TokenizerFiles) -> String {
    let mut hasher = Sha256::new();
    // A template changes nothing of the ids of a text.
    let TokenizerFiles { tokenizer, tokenizer_config, generation_config, .. } = files;
    for file in [Some(tokenizer), tokenizer_config.as_ref(), generation_config.as_ref()] {
        let bytes = file.map_or(&[][..], Vec::as_slice);
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    format!("{:x}", hasher.finalize())
}
