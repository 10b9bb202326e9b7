//! Reads a tokenizer's files.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::AddedToken;

use super::templates::ChatTemplates;
use crate::files::{TokenizerFiles, json, token_ids};
use crate::sample::Sampling;
use crate::{Error, Result};

/// Advice for a missing tokenizer.
const ADVICE: &str = "The published Llamba repositories carry no tokenizer: theirs is Llama 3's. \
    Give one with --tokenizer (in the library: `tokenizer(..)`): a tokenizer.json, a directory \
    that has one, or a repository such as meta-llama/Llama-3.2-1B-Instruct (gated: accept the \
    license on its page, then set HF_TOKEN)";

/// The most bytes of an added token: the time to load one grows with the square of its length.
const LONGEST: usize = 1000;
/// The longest padding, in tokens, of a file that was made to be used.
const MOST_PADDING: u64 = 1 << 24;

/// Tokens that end a text or a turn in the vocabularies of Llama 3.
const LLAMA_3_EOS: [&str; 3] = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"];
const LLAMA_3_BOS: &str = "<|begin_of_text|>";

/// Reads the tokenizer at `path`, a `tokenizer.json` or a directory with one. Returns the path of
/// the `tokenizer.json`, its content, and the files beside it.
pub(super) fn read(path: &Path) -> Result<(PathBuf, TokenizerFiles)> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    Ok((file.clone(), TokenizerFiles::beside(&file)?))
}

/// The content of the `tokenizer.json`, called `path` in errors.
pub(super) fn tokenizer_json<'f>(path: &Path, files: &'f TokenizerFiles) -> Result<&'f [u8]> {
    files.get("tokenizer.json").ok_or_else(|| Error::TokenizerMissing {
        model: path.parent().unwrap_or(path).display().to_string(),
        reason: format!("{} does not exist. {ADVICE}", path.display()),
    })
}

/// The parts of a `tokenizer.json` that are read here; a missing one is null.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Model,
    #[serde(default)]
    added_tokens: Value,
    // Also parsed because the `tokenizers` library panics on damaged strings in them.
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    post_processor: Value,
}

/// The most that a part of a tokenizer may have: `tokenizers` takes megabytes of memory for a step.
const STEPS: usize = 64;
const STEP_BYTES: usize = 1 << 16;

impl Outline {
    /// Refuses parts that take far more memory than the file has bytes; the error says what.
    fn check(&self) -> Result<(), String> {
        for (name, part) in [
            ("normalizer", &self.normalizer),
            ("pre_tokenizer", &self.pre_tokenizer),
            ("decoder", &self.decoder),
            ("post_processor", &self.post_processor),
        ] {
            let (steps, bytes) = size(part);
            if steps > STEPS || bytes > STEP_BYTES {
                return Err(format!(
                    "its {name} has {steps} steps and {bytes} bytes, expected at most {STEPS} and \
                     {STEP_BYTES}"
                ));
            }
        }
        Ok(())
    }
}

/// The steps of a part of a tokenizer, and the bytes of all of its texts but the character maps of
/// SentencePiece.
fn size(value: &Value) -> (usize, usize) {
    let sum = |(a, b): (usize, usize), (c, d): (usize, usize)| (a + c, b + d);
    match value {
        Value::String(text) => (0, text.len()),
        Value::Array(items) => items.iter().map(size).fold((0, 8 * items.len()), sum),
        Value::Object(fields) => {
            let own = usize::from(fields.contains_key("type"));
            let parts = fields.iter().filter(|(name, _)| *name != "precompiled_charsmap");
            parts.map(|(name, value)| sum((0, name.len()), size(value))).fold((own, 0), sum)
        }
        _ => (0, 8),
    }
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(default)]
    vocab: LargestId,
}

/// The largest id of a vocabulary, a map from tokens to ids or a list in the order of the ids.
#[derive(Default)]
struct LargestId(u32);

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = LargestId;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from tokens to ids, or a list of tokens")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<LargestId, M::Error> {
                let mut largest = 0;
                while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u32>()? {
                    largest = largest.max(id);
                }
                Ok(LargestId(largest))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<LargestId, S::Error> {
                let mut count: u32 = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(LargestId(count.saturating_sub(1)))
            }
        }
        deserializer.deserialize_any(Ids)
    }
}

/// The way in which tokens spell the bytes that they stand for.
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
    /// The spelling that a decoder of the `tokenizers` library undoes, if it is a known one.
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

/// A `tokenizer.json`.
pub(super) struct Parsed {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) spelling: Spelling,
    /// Of the vocabulary, added tokens not included.
    pub(super) largest_id: u32,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
}

/// Loads a `tokenizer.json`. The error says why that is impossible.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let bytes = bytes.strip_prefix(json::MARK).unwrap_or(bytes);
    let damaged = |e: &dyn std::fmt::Display| format!("not a tokenizer.json: {e}");
    let outline: Outline = json::from_slice(bytes).map_err(|e| damaged(&e))?;
    let spelling = Spelling::of(&outline.decoder).ok_or(
        "its decoder is of an unknown kind; byte-level tokenizers, like Llama 3's, are supported, \
         and SentencePiece's, like Llama 2's",
    )?;
    let added = outline.added_tokens.as_array().into_iter().flatten();
    if let Some(long) = added.filter_map(|t| t["content"].as_str()).find(|t| t.len() > LONGEST) {
        let found = long.len();
        return Err(damaged(&format!(
            "an added token of {found} bytes, expected at most {LONGEST}"
        )));
    }
    let padding = &outline.padding;
    let lengths = [&padding["strategy"]["Fixed"], &padding["pad_to_multiple_of"]];
    if let Some(length) = lengths.iter().filter_map(|n| n.as_u64()).find(|&n| n > MOST_PADDING) {
        return Err(damaged(&format!(
            "a padding to {length} tokens, expected at most {MOST_PADDING}"
        )));
    }
    outline.check().map_err(|e| damaged(&e))?;
    let load = || {
        let mut loaded = tokenizers::Tokenizer::from_bytes(bytes)?;
        // Some files still have the padding of their training.
        loaded.with_padding(None);
        loaded.with_truncation(None)?;
        loaded.encode_fast("a trial", true)?; // some mistakes are found only now
        Ok(loaded)
    };
    let inner = guarded(load).map_err(|e| damaged(&e))?;
    let Outline { normalizer, pre_tokenizer, model, .. } = outline;
    Ok(Parsed { inner, spelling, largest_id: model.vocab.0, normalizer, pre_tokenizer })
}

/// Calls the `tokenizers` library, which panics on some malformed files.
pub(crate) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("it contradicts itself".to_owned()),
    }
}

/// The sampling options of a `generation_config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SuggestedSampling {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl SuggestedSampling {
    /// Reads the options that are there. One that cannot be is left out, and the log says so.
    fn of(generation: &Value, path: &Path) -> Self {
        let number = |key: &str| generation[key].as_f64().map(|number| number as f32);
        let found = Self {
            temperature: number("temperature"),
            top_k: generation["top_k"].as_u64().map(|k| usize::try_from(k).unwrap_or(0)),
            top_p: number("top_p"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
        };
        match found.over(Sampling::plain()).validate(1) {
            Ok(()) => found,
            Err(error) => {
                let file = path.with_file_name("generation_config.json");
                log::warn!("{}: its sampling options are ignored: {error}", file.display());
                Self::default()
            }
        }
    }

    /// Replaces the options of `sampling` that are named.
    pub(crate) fn over(&self, sampling: Sampling) -> Sampling {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty } = *self;
        Sampling {
            temperature: temperature.unwrap_or(sampling.temperature),
            top_k: top_k.unwrap_or(sampling.top_k),
            top_p: top_p.unwrap_or(sampling.top_p),
            min_p: min_p.unwrap_or(sampling.min_p),
            repetition_penalty: repetition_penalty.unwrap_or(sampling.repetition_penalty),
            ..sampling
        }
    }
}

/// The tokens that begin and end texts, the chat templates, and sampling options.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<u32>,
    /// True if `bos` is put in front; `None` leaves that to `tokenizer.json`.
    pub(crate) add_bos: Option<bool>,
    /// Ascending, each once.
    pub(crate) eos: Vec<u32>,
    /// The chat templates, or what is wrong with them.
    pub(crate) templates: Result<ChatTemplates, String>,
    pub(crate) sampling: SuggestedSampling,
}

impl SpecialTokens {
    pub(crate) fn find(
        inner: &mut tokenizers::Tokenizer,
        path: &Path,
        files: &TokenizerFiles,
    ) -> Result<Self> {
        let parse = |name| match files.get(name) {
            None => Ok(Value::Null),
            Some(bytes) => json::from_slice(bytes)
                .map_err(|source| Error::Json { path: path.with_file_name(name), source }),
        };
        let config = parse("tokenizer_config.json")?;
        let generation = parse("generation_config.json")?;
        let ids = |key: &'static str| {
            token_ids(&generation[key]).ok_or_else(|| Error::Tokenizer {
                path: path.with_file_name("generation_config.json"),
                reason: format!("{key} is {}, expected an id or a list of ids", generation[key]),
            })
        };
        let more = parse("special_tokens_map.json")?;
        add_tokens(inner, &config["added_tokens_decoder"], path);
        let by_name = |key: &str| {
            let name = token_name(&config[key]).or_else(|| token_name(&more[key]));
            name.and_then(|token| inner.token_to_id(token))
        };

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
            templates: ChatTemplates::find(files, &config),
            sampling: SuggestedSampling::of(&generation, path),
        })
    }
}

/// Adds the tokens that `tokenizer_config.json` lists, by id, and `tokenizer.json` does not: those
/// that are a part of the vocabulary only, and those after its end.
fn add_tokens(inner: &mut tokenizers::Tokenizer, listed: &Value, path: &Path) {
    #[derive(Deserialize)]
    struct Listed {
        content: String,
        #[serde(default)]
        special: bool,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
    }
    let entries = listed.as_object().into_iter().flatten().filter_map(|(id, token)| {
        Some((id.parse::<u32>().ok()?, Listed::deserialize(token).ok()?))
    });
    let mut tokens: Vec<(u32, Listed)> = entries.collect();
    tokens.sort_by_key(|(id, _)| *id);
    for (id, token) in tokens {
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let known = added.contains_key(&id);
        let after = added.keys().max().map_or(0, |id| id + 1);
        let next = after.max(inner.get_vocab_size(false) as u32);
        let there = inner.token_to_id(&token.content);
        // Another id would be given to a token that does not come next.
        if known
            || token.content.is_empty()
            || token.content.len() > LONGEST
            || there.unwrap_or(next) != id
        {
            if !known {
                let file = path.with_file_name("tokenizer_config.json");
                log::warn!("{}: token {id} does not fit tokenizer.json", file.display());
            }
            continue;
        }
        let added = AddedToken {
            content: token.content,
            special: token.special,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized.unwrap_or(!token.special),
        };
        if token.special {
            inner.add_special_tokens(&[added]);
        } else {
            inner.add_tokens(&[added]);
        }
    }
}

/// The text of a token, which is a string or an object with the string and its flags.
fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
