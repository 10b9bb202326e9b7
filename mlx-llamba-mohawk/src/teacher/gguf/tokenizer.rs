//! The tokenizer in a GGUF file's metadata, as a `tokenizer.json`.

use std::path::Path;

use mlx_llamba::TokenizerFiles;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// How Llama 3 cuts text before pairs are merged.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Kinds of tokens: a control token, and one that a user added.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Builds the files.
pub(super) fn files(path: &Path, metadata: &Map<String, Value>) -> Result<TokenizerFiles> {
    let refused = |found: &Value, expected: &'static str| Error::TokenizerKind {
        path: path.to_owned(),
        found: found.to_string().chars().take(60).collect(),
        expected,
    };
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}")).unwrap_or(&Value::Null);
    let damaged = |what: &str| Error::Gguf { path: path.to_owned(), reason: what.to_owned() };
    if get("model") != "gpt2" {
        return Err(refused(get("model"), "byte-level BPE (gpt2)"));
    }
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let both = |first: Value, regex| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
    let (pre_tokenizer, llama_3) = match get("pre").as_str() {
        Some("gpt-2") => (byte_level(true), false),
        Some("smollm" | "starcoder" | "refact") => {
            (both(json!({"type": "Digits", "individual_digits": true}), true), false)
        }
        Some("llama-bpe" | "llama3" | "llama-v3") => {
            let pattern = json!({"Regex": LLAMA_3});
            let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
            (both(split, false), true)
        }
        _ => {
            return Err(refused(get("pre"), "a known way to cut words (gpt-2, smollm, llama-bpe)"));
        }
    };
    let (Some(tokens), Some(merges)) = (get("tokens").as_array(), get("merges").as_array()) else {
        return Err(damaged("its tokenizer has no list of tokens or of merges"));
    };
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        let Some(token) = token.as_str() else {
            return Err(damaged("its list of tokens holds something else than text"));
        };
        vocab.insert(token.to_owned(), id.into());
    }
    if vocab.len() != tokens.len() {
        return Err(damaged("its list of tokens holds a token twice"));
    }
    if !merges.iter().all(Value::is_string) {
        return Err(damaged("its list of merges holds something else than text"));
    }
    let kinds = get("token_type").as_array().map_or(&[][..], Vec::as_slice);
    let kinds = kinds.iter().map(|kind| kind.as_u64().unwrap_or(0));
    let added: Vec<Value> = (tokens.iter().zip(kinds).enumerate())
        .filter(|(_, (_, kind))| matches!(*kind, CONTROL | USER_DEFINED))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "special": kind == CONTROL, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let model = json!({
        "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": llama_3,
        "fuse_unk": false, "byte_fallback": false, "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": byte_level(true), "model": model,
    });

    let token = |key: &str| {
        let id = get(key).as_u64().and_then(|id| usize::try_from(id).ok());
        id.and_then(|id| tokens.get(id)).cloned().unwrap_or(Value::Null)
    };
    let mut config = json!({
        "bos_token": token("bos_token_id"),
        "eos_token": token("eos_token_id"),
        "add_bos_token": get("add_bos_token").as_bool().unwrap_or(llama_3),
    });
    if let Some(template) = metadata.get("tokenizer.chat_template") {
        config["chat_template"] = template.clone();
    }
    let ends = [get("eos_token_id"), get("eot_token_id")].into_iter().filter(|id| id.is_u64());
    let generation = json!({"eos_token_id": ends.collect::<Vec<_>>()});
    Ok(TokenizerFiles {
        tokenizer: tokenizer.to_string().into_bytes(),
        tokenizer_config: Some(config.to_string().into_bytes()),
        generation_config: Some(generation.to_string().into_bytes()),
        chat_template: None, // it stands in tokenizer_config
    })
}
