//! The files beside a `tokenizer.json` and the special tokens they name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::template::Sources;
use crate::{Error, Result};

/// What a missing tokenizer's error tells people to do.
const ADVICE: &str = "The published Llamba repositories carry no tokenizer: theirs is Llama 3's. \
    Give one with --tokenizer (in the library: `tokenizer(..)`): a tokenizer.json, a directory \
    that has one, or a repository such as meta-llama/Llama-3.2-1B-Instruct (gated: accept the \
    licence on its page, then set HF_TOKEN)";

/// Ends of text and of turn in the vocabularies of Llama 3.
const LLAMA_3_EOS: [&str; 3] = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"];
const LLAMA_3_BOS: &str = "<|begin_of_text|>";

/// The bytes of a tokenizer's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, if there is one.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<Vec<u8>>,
    /// `chat_template.jinja`, if there is one.
    pub chat_template: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// Reads a `tokenizer.json`, or the one in a directory, and the files beside it. Also
    /// gives the path of the `tokenizer.json`.
    pub(crate) fn read(path: &Path) -> Result<(PathBuf, Self)> {
        let missing = |reason: String| Error::TokenizerMissing {
            model: path.display().to_string(),
            reason: format!("{reason}. {ADVICE}"),
        };
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let Some(tokenizer) = read_if_there(&file)? else {
            return Err(missing(format!("{} does not exist", file.display())));
        };
        let beside = |name| read_if_there(&file.with_file_name(name));
        let files = Self {
            tokenizer,
            tokenizer_config: beside("tokenizer_config.json")?,
            generation_config: beside("generation_config.json")?,
            chat_template: beside("chat_template.jinja")?,
        };
        Ok((file, files))
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { action: "read", path: path.to_owned(), source }),
    }
}

/// The small parts of a `tokenizer.json`; a missing one is null.
#[derive(serde::Deserialize)]
struct Outline {
    #[serde(default)]
    decoder: Value,
    // Parsed only because damaged strings in them are a panic in the `tokenizers` library.
    #[serde(default, rename = "added_tokens")]
    _added_tokens: Value,
    #[serde(default, rename = "normalizer")]
    _normalizer: Value,
    #[serde(default, rename = "pre_tokenizer")]
    _pre_tokenizer: Value,
    #[serde(default, rename = "post_processor")]
    _post_processor: Value,
}

/// How the tokens of a vocabulary spell the bytes that they stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// A character for each byte, as GPT-2 and Llama 3 do.
    ByteLevel,
    /// As text in which U+2581 is a space, as SentencePiece and Llama 2 do.
    SentencePiece {
        /// `<0xHH>` is a byte.
        bytes: bool,
        /// A text's first space is not the text's own.
        prefix: bool,
    },
}

impl Spelling {
    /// What a decoder of the `tokenizers` library undoes, if it is one that is known.
    fn of(decoder: &Value) -> Option<Self> {
        let steps = match &decoder["decoders"] {
            Value::Array(steps) if decoder["type"] == "Sequence" => steps.as_slice(),
            _ => std::slice::from_ref(decoder),
        };
        let (first, rest) = steps.split_first()?;
        let (mut bytes, mut fused) = (false, false);
        let mut prefix = match first["type"].as_str()? {
            "ByteLevel" if rest.is_empty() => return Some(Self::ByteLevel),
            "Metaspace" if first["replacement"] == "\u{2581}" => first["prepend_scheme"] != "never",
            "Replace" if first["pattern"]["String"] == "\u{2581}" && first["content"] == " " => {
                false
            }
            _ => return None,
        };
        for step in rest {
            match step["type"].as_str()? {
                "ByteFallback" => bytes = true,
                "Fuse" => fused = true,
                // Of the whole text, and of its beginning only.
                "Strip" if fused && step["content"] == " " && step["stop"] == 0 => {
                    match step["start"].as_u64()? {
                        0 => {}
                        1 => prefix = true,
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
        Some(Self::SentencePiece { bytes, prefix })
    }
}

/// Loads a `tokenizer.json`; the error says why that cannot be done.
pub(crate) fn parse(bytes: &[u8]) -> Result<(tokenizers::Tokenizer, Spelling), String> {
    let damaged = |e: &dyn std::fmt::Display| format!("not a tokenizer.json: {e}");
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
    let spelling = Spelling::of(&outline.decoder).ok_or(
        "its decoder is of an unknown kind; byte-level tokenizers, as Llama 3 has one, are \
         supported, and SentencePiece's, as Llama 2 has one",
    )?;
    let load = || {
        let loaded = tokenizers::Tokenizer::from_bytes(bytes)?;
        loaded.encode_fast("a trial", true)?; // some mistakes show only now
        Ok(loaded)
    };
    Ok((guarded(load).map_err(|e| damaged(&e))?, spelling))
}

/// Runs a call into the `tokenizers` library, which panics on some malformed files.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("it contradicts itself".to_owned()),
    }
}

/// The tokens that begin and end texts.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<u32>,
    /// Whether to put `bos` in front; `None` leaves it to `tokenizer.json`.
    pub(crate) add_bos: Option<bool>,
    /// Ascending, each once.
    pub(crate) eos: Vec<u32>,
    /// The chat templates, or what is wrong with them.
    pub(crate) templates: Result<Sources, String>,
}

impl SpecialTokens {
    pub(crate) fn find(
        inner: &tokenizers::Tokenizer,
        path: &Path,
        files: &TokenizerFiles,
    ) -> Result<Self> {
        let parse = |bytes: &Option<Vec<u8>>, name| match bytes {
            None => Ok(Value::Null),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| Error::Json { path: path.with_file_name(name), source }),
        };
        let config = parse(&files.tokenizer_config, "tokenizer_config.json")?;
        let generation = parse(&files.generation_config, "generation_config.json")?;
        let ids = |key: &'static str| {
            token_ids(&generation[key]).ok_or_else(|| Error::Tokenizer {
                path: path.with_file_name("generation_config.json"),
                reason: format!("{key} is {}, expected an id or a list of ids", generation[key]),
            })
        };
        let by_name = |key: &str| token_name(&config[key]).and_then(|t| inner.token_to_id(t));

        let bos = by_name("bos_token");
        let bos = bos.or(ids("bos_token_id")?.first().copied());
        let mut eos = ids("eos_token_id")?;
        eos.extend(by_name("eos_token"));
        eos.extend(LLAMA_3_EOS.into_iter().filter_map(|token| inner.token_to_id(token)));
        eos.sort_unstable();
        eos.dedup();
        Ok(Self {
            bos: bos.or_else(|| inner.token_to_id(LLAMA_3_BOS)),
            add_bos: config["add_bos_token"].as_bool(),
            eos,
            templates: Sources::find(files, &config),
        })
    }
}

/// An id, a list of ids, or nothing; `None` if it is something else.
fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(id).collect(),
        one => Some(vec![id(one)?]),
    }
}

/// A token is written as a string, or as an object that holds the string and its flags.
fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
