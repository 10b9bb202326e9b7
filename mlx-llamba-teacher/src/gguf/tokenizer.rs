//! The tokenizer in a GGUF file's metadata, as a `tokenizer.json`.

use std::path::Path;

use mlx_llamba::files::TokenizerFiles;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Llama 3's pre-tokenization pattern.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The types of tokens: ordinary, control, and added by a user.
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// The longest token, in bytes, whose merges are searched; SentencePiece makes no longer ones.
const LONGEST: usize = 256;

/// Builds the files of the tokenizer.
pub(super) fn files(path: &Path, metadata: &Map<String, Value>) -> Result<TokenizerFiles> {
    let refused = |found: &Value, expected: &'static str| Error::TokenizerKind {
        path: path.to_owned(),
        found: found.to_string().chars().take(60).collect(),
        expected,
    };
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}")).unwrap_or(&Value::Null);
    let damaged = |what: &str| Error::Gguf { path: path.to_owned(), reason: what.to_owned() };
    let kind = get("model").as_str();
    if !matches!(kind, Some("gpt2" | "llama")) {
        return Err(refused(get("model"), "byte-level BPE (gpt2) or SentencePiece (llama)"));
    }
    let Some(tokens) = get("tokens").as_array() else {
        return Err(damaged("its tokenizer has no list of tokens"));
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
    let kinds = get("token_type").as_array().map_or(&[][..], Vec::as_slice);
    let kinds: Vec<u64> = kinds.iter().map(|kind| kind.as_u64().unwrap_or(0)).collect();
    let added: Vec<Value> = (tokens.iter().zip(&kinds).enumerate())
        .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "special": *kind == CONTROL, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let token = |key: &str| {
        let id = get(key).as_u64().and_then(|id| usize::try_from(id).ok());
        id.and_then(|id| tokens.get(id)).cloned().unwrap_or(Value::Null)
    };
    let (mut tokenizer, begins) = if kind == Some("llama") {
        let scores = get("scores").as_array().map_or(&[][..], Vec::as_slice);
        if scores.len() != tokens.len() || kinds.len() != tokens.len() {
            return Err(damaged("its tokenizer has not a score and a kind for each token"));
        }
        let merges = merges(&vocab, tokens, &kinds, scores);
        let prefix = get("add_space_prefix").as_bool().unwrap_or(true);
        (sentence_piece(vocab, merges, &token("unknown_token_id"), prefix), true)
    } else {
        let Some(merges) = get("merges").as_array() else {
            return Err(damaged("its tokenizer has no list of merges"));
        };
        if !merges.iter().all(Value::is_string) {
            return Err(damaged("its list of merges holds something else than text"));
        }
        let Some((cut, llama_3)) = get("pre").as_str().and_then(cut) else {
            let known = "a known way to cut words (gpt-2, smollm, llama-bpe)";
            return Err(refused(get("pre"), known));
        };
        (byte_level(vocab, merges, &cut, llama_3), llama_3)
    };
    tokenizer["added_tokens"] = added.into();

    let mut config = json!({
        "bos_token": token("bos_token_id"),
        "eos_token": token("eos_token_id"),
        "add_bos_token": get("add_bos_token").as_bool().unwrap_or(begins),
    });
    if let Some(template) = metadata.get("tokenizer.chat_template") {
        config["chat_template"] = template.clone();
    }
    let ends = [get("eos_token_id"), get("eot_token_id")].into_iter().filter(|id| id.is_u64());
    let generation = json!({"eos_token_id": ends.collect::<Vec<_>>()});
    Ok(TokenizerFiles::default()
        .with("tokenizer.json", tokenizer.to_string().into_bytes())
        .with("tokenizer_config.json", config.to_string().into_bytes())
        .with("generation_config.json", generation.to_string().into_bytes()))
}

/// Returns the pre-tokenizer with a character for each byte.
fn bytes(regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}

/// Returns the pre-tokenizer of this name, and true for Llama 3's.
fn cut(name: &str) -> Option<(Value, bool)> {
    let both =
        |first: Value, regex| json!({"type": "Sequence", "pretokenizers": [first, bytes(regex)]});
    match name {
        "gpt-2" => Some((bytes(true), false)),
        "smollm" | "starcoder" | "refact" => {
            Some((both(json!({"type": "Digits", "individual_digits": true}), true), false))
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            let pattern = json!({"Regex": LLAMA_3});
            let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
            Some((both(split, false), true))
        }
        _ => None,
    }
}

fn byte_level(vocab: Map<String, Value>, merges: &[Value], cut: &Value, llama_3: bool) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": null, "pre_tokenizer": cut, "post_processor": null, "decoder": bytes(true),
        "model": {
            "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": llama_3,
            "fuse_unk": false, "byte_fallback": false, "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
        },
    })
}

/// Returns the pairs that SentencePiece merges, in descending order of the merged token's score.
///
/// Source: SentencePiece's BPE (arXiv 1808.06226), which merges the two neighbors that form the token
/// with the highest score.
fn merges(
    vocab: &Map<String, Value>,
    tokens: &[Value],
    kinds: &[u64],
    scores: &[Value],
) -> Vec<[String; 2]> {
    let id = |text: &str| {
        let id = vocab.get(text)?.as_u64()?;
        kinds.get(usize::try_from(id).ok()?).filter(|kind| **kind == NORMAL).map(|_| id)
    };
    let mut found = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let text = token.as_str().filter(|text| text.len() <= LONGEST && id(text).is_some());
        let Some((text, score)) = text.zip(score.as_f64()) else { continue };
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let Some(pair) = id(left).zip(id(right)) {
                found.push((score, pair, [left.to_owned(), right.to_owned()]));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    found.into_iter().map(|(_, _, pair)| pair).collect()
}

/// Returns the tokenizer. With `prefix`, it puts a space in front of a text.
fn sentence_piece(
    vocab: Map<String, Value>,
    merges: Vec<[String; 2]>,
    unknown: &Value,
    prefix: bool,
) -> Value {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let first = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let before = if prefix { vec![first, space] } else { vec![space] };
    let mut after = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        after.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": {"type": "Sequence", "normalizers": before}, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Sequence", "decoders": after},
        "model": {
            "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": false,
            "fuse_unk": true, "byte_fallback": true, "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn built(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Value, String> {
        let values = json!({
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "a", "b", "ab", "aba"],
            "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -4.0, -3.0],
            "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1],
        });
        let Value::Object(mut metadata) = values else { unreachable!() };
        change(&mut metadata);
        let files = files(Path::new("made/up.gguf"), &metadata).map_err(|e| e.to_string())?;
        Ok(serde_json::from_slice(files.get("tokenizer.json").unwrap()).unwrap())
    }

    #[test]
    fn pairs_are_merged_in_the_order_of_scores() {
        let tokenizer = built(|_| ()).unwrap();
        assert_eq!(tokenizer["model"]["merges"], json!([["ab", "a"], ["a", "b"]]));
        assert_eq!(tokenizer["added_tokens"][0]["content"], "<s>");
        // Pieces without a score, and pieces that are not text, are not merged.
        let set = |key: &'static str, value: Value| {
            move |metadata: &mut Map<String, Value>| {
                metadata.insert(format!("tokenizer.ggml.{key}"), value);
            }
        };
        let tokenizer = built(set("scores", json!([0, 0, 0, 0, null, 0]))).unwrap();
        assert_eq!(tokenizer["model"]["merges"], json!([["ab", "a"]]));
        let tokenizer = built(set("token_type", json!([2, 3, 1, 1, 6, 1]))).unwrap();
        assert_eq!(tokenizer["model"]["merges"], json!([]));
        let long = "a".repeat(1 << 20);
        let tokenizer =
            built(set("tokens", json!(["<unk>", "<s>", "a", "b", "ab", long]))).unwrap();
        assert_eq!(tokenizer["model"]["merges"], json!([["a", "b"]]));
    }

    #[test]
    fn what_is_missing_is_said() {
        for (key, value, expected) in [
            ("model", json!("t5"), "is \"t5\", expected byte-level BPE (gpt2) or SentencePiece"),
            ("scores", Value::Null, "its tokenizer has not a score and a kind for each token"),
            ("token_type", json!([1]), "its tokenizer has not a score and a kind for each token"),
            ("tokens", json!(["a", "a"]), "its list of tokens holds a token twice"),
            ("tokens", json!(["a", 1]), "its list of tokens holds something else than text"),
            ("tokens", Value::Null, "its tokenizer has no list of tokens"),
        ] {
            let error = built(|metadata| {
                metadata.insert(format!("tokenizer.ggml.{key}"), value);
            });
            let error = error.unwrap_err();
            assert!(error.contains(expected) && error.contains("made/up.gguf"), "{error}");
        }
    }
}
