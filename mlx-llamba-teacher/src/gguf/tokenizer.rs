//! The tokenizer in a GGUF file's metadata, as a `tokenizer.json`.

use std::collections::HashMap;
use std::path::Path;

use mlx_llamba::files::TokenizerFiles;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::cursor::Metadata;
use crate::error::{Error, Result};

/// Llama 3's pre-tokenization pattern.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The pattern of Mistral's Tekken.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The cased letters that DeepSeek LLM's pattern lists.
const CASED: &str = concat!(
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}",
    r"\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}",
    r"\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}",
    r"\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}",
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}",
    r"\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}",
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}",
    r"\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}",
    r"\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}",
    r"\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}",
    r"\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}",
    r"\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
);
/// The types of tokens: ordinary, control, and added by a user.
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// The longest token, in bytes, whose merges are searched; SentencePiece makes no longer ones.
const LONGEST: usize = 256;
/// The most bytes of merged tokens for each byte of the list of tokens. Llama 2 has about 1.
const MERGED: usize = 8;

/// A `tokenizer.json`.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: Bpe<'a>,
}

/// Its model.
#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Value,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "vocabulary")]
    vocab: &'a [&'a str],
    merges: Merges<'a>,
}

/// Pairs of tokens, or texts of two tokens with a space between.
#[derive(Serialize)]
#[serde(untagged)]
enum Merges<'a> {
    Pairs(Vec<(&'a str, &'a str)>),
    Texts(Vec<&'a str>),
}

/// Writes tokens as a map to their ids.
fn vocabulary<S: Serializer>(tokens: &&[&str], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// Builds the files of the tokenizer from the metadata in the first `bytes` of a file.
pub(super) fn files(path: &Path, metadata: &Metadata, bytes: &[u8]) -> Result<TokenizerFiles> {
    let refused = |found: &Value, expected: &'static str| Error::TokenizerKind {
        path: path.to_owned(),
        found: found.to_string().chars().take(60).collect(),
        expected,
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let get = |name: &str| metadata.values.get(&key(name)).unwrap_or(&Value::Null);
    let list = |name: &str| metadata.lists.get(&key(name));
    let damaged = |what: &str| Error::Gguf { path: path.to_owned(), reason: what.to_owned() };
    let kind = get("model").as_str();
    if !matches!(kind, Some("gpt2" | "llama")) {
        return Err(refused(get("model"), "byte-level BPE (gpt2) or SentencePiece (llama)"));
    }
    let Some(tokens) = list("tokens") else {
        return Err(damaged("its tokenizer has no list of tokens"));
    };
    let Some(tokens) = tokens.texts(bytes) else {
        return Err(damaged("its list of tokens holds something else than text"));
    };
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, &token)| (token, id)).collect();
    if ids.len() != tokens.len() {
        return Err(damaged("its list of tokens holds a token twice"));
    }
    // A number for each token.
    let numbers = |name: &str| {
        list(name).filter(|list| list.len() == tokens.len()).and_then(|list| list.numbers(bytes))
    };
    let kinds: Option<Vec<u64>> =
        numbers("token_type").map(|kinds| kinds.into_iter().map(|kind| kind as u64).collect());
    let added = tokens.iter().zip(kinds.iter().flatten()).enumerate();
    let added = added.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED)).map(
        |(id, (token, kind))| {
            json!({
                "id": id, "content": token, "special": *kind == CONTROL, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        },
    );
    let added = added.collect();
    let token = |key: &str| {
        let id = get(key).as_u64().and_then(|id| usize::try_from(id).ok());
        id.and_then(|id| tokens.get(id)).map_or(Value::Null, |&token| token.into())
    };
    let (tokenizer, begins) = if kind == Some("llama") {
        let Some((scores, kinds)) = numbers("scores").zip(kinds) else {
            return Err(damaged("its tokenizer has not a score and a kind for each token"));
        };
        let Some(merges) = merges(&ids, &tokens, &kinds, &scores) else {
            return Err(damaged(
                "its tokens can be merged in far more ways than those of a language",
            ));
        };
        let prefix = get("add_space_prefix").as_bool().unwrap_or(true);
        (sentence_piece(added, &tokens, merges, token("unknown_token_id"), prefix), true)
    } else {
        let Some(merges) = list("merges") else {
            return Err(damaged("its tokenizer has no list of merges"));
        };
        let Some(merges) = merges.texts(bytes) else {
            return Err(damaged("its list of merges holds something else than text"));
        };
        if get("pre").is_null() {
            log::warn!(
                "{} does not say how its tokenizer cuts words; as in llama.cpp, they are cut by a \
                 default, which may not be this model's: a newer conversion says it",
                path.display()
            );
        }
        let name = if get("pre").is_null() { Some("default") } else { get("pre").as_str() };
        let Some((cut, whole)) = name.and_then(cut) else {
            let known = "a known way to cut words (default, gpt-2, smollm, llama-bpe, qwen2, tekken, \
                         deepseek-coder, deepseek-llm, viking, or one that cuts as these)";
            return Err(refused(get("pre"), known));
        };
        (byte_level(added, &tokens, merges, cut, whole), whole)
    };
    let tokenizer = serde_json::to_vec(&tokenizer).map_err(|e| damaged(&e.to_string()))?;

    let mut config = json!({
        "bos_token": token("bos_token_id"),
        "eos_token": token("eos_token_id"),
        "add_bos_token": get("add_bos_token").as_bool().unwrap_or(begins),
    });
    if let Some(template) = metadata.values.get("tokenizer.chat_template") {
        config["chat_template"] = template.clone();
    }
    let ends = [get("eos_token_id"), get("eot_token_id")].into_iter().filter(|id| id.is_u64());
    let generation = json!({"eos_token_id": ends.collect::<Vec<_>>()});
    Ok(TokenizerFiles::default()
        .with("tokenizer.json", tokenizer)
        .with("tokenizer_config.json", config.to_string().into_bytes())
        .with("generation_config.json", generation.to_string().into_bytes()))
}

/// Returns the pre-tokenizer with a character for each byte.
fn bytes(regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}

/// Returns the pre-tokenizer of this name, and true for those whose tokenizers find whole words in the
/// vocabulary before they merge, and begin texts with a token for that.
fn cut(name: &str) -> Option<(Value, bool)> {
    let sequence = |mut steps: Vec<Value>, regex| {
        steps.push(bytes(regex));
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    let split = |pattern: &str| {
        let pattern = json!({"Regex": pattern});
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    };
    let digits = || json!({"type": "Digits", "individual_digits": true});
    match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "gigachat" => Some((bytes(true), false)),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            Some((sequence(vec![digits()], true), false))
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => Some((sequence(vec![split(LLAMA_3)], false), true)),
        "smaug-bpe" | "dbrx" | "chatglm-bpe" | "glm4" => {
            Some((sequence(vec![split(LLAMA_3)], false), false))
        }
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => {
            Some((sequence(vec![split(&LLAMA_3.replace("{1,3}", ""))], false), false))
        }
        "tekken" => Some((sequence(vec![split(TEKKEN)], false), true)),
        "deepseek-coder" => {
            let splits = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"].map(split);
            let splits = splits.into_iter().chain([digits()]).collect();
            Some((sequence(splits, false), false))
        }
        "deepseek-llm" => {
            let words = format!(r"\s?[{CASED}]+");
            let punctuation =
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
            let others = ["[\r\n]", &words, punctuation, r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"];
            Some((sequence(others.map(split).into(), false), false))
        }
        "viking" => {
            let words = r" ?[^(\s|.,!?…。，、।۔،)]+";
            Some((sequence(vec![split(words), digits()], false), false))
        }
        "default" => {
            let patterns = [
                r"[\p{P}\$\+<=>\^~\|]+",
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
                r"\p{N}+",
                "[0-9][0-9][0-9]",
            ];
            Some((sequence(patterns.map(split).into(), false), false))
        }
        _ => None,
    }
}

fn byte_level<'a>(
    added_tokens: Vec<Value>,
    vocab: &'a [&'a str],
    merges: Vec<&'a str>,
    cut: Value,
    whole: bool,
) -> TokenizerJson<'a> {
    TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: Value::Null,
        pre_tokenizer: cut,
        post_processor: (),
        decoder: bytes(true),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: Value::Null,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: whole,
            vocab,
            merges: Merges::Texts(merges),
        },
    }
}

/// Returns the pairs that SentencePiece merges, in descending order of the merged token's score; `None`
/// if they are far more than those of a language.
///
/// Source: SentencePiece's BPE (arXiv 1808.06226), which merges the two neighbors that form the token
/// with the highest score.
fn merges<'a>(
    ids: &HashMap<&str, usize>,
    tokens: &[&'a str],
    kinds: &[u64],
    scores: &[f64],
) -> Option<Vec<(&'a str, &'a str)>> {
    let id = |text: &str| ids.get(text).copied().filter(|&id| kinds[id] == NORMAL);
    let mut left_over: usize = tokens.iter().map(|token| MERGED * (token.len() + 8)).sum();
    let mut found = Vec::new();
    for (&text, &score) in tokens.iter().zip(scores) {
        if text.len() > LONGEST || id(text).is_none() || score.is_nan() {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let Some(pair) = id(left).zip(id(right)) {
                left_over = left_over.checked_sub(text.len())?;
                found.push((score, pair, (left, right)));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    Some(found.into_iter().map(|(_, _, pair)| pair).collect())
}

/// Returns the tokenizer. With `prefix`, it puts a space in front of a text.
fn sentence_piece<'a>(
    added_tokens: Vec<Value>,
    vocab: &'a [&'a str],
    merges: Vec<(&'a str, &'a str)>,
    unk_token: Value,
    prefix: bool,
) -> TokenizerJson<'a> {
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
    TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens,
        normalizer: json!({"type": "Sequence", "normalizers": before}),
        pre_tokenizer: Value::Null,
        post_processor: (),
        decoder: json!({"type": "Sequence", "decoders": after}),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab,
            merges: Merges::Pairs(merges),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use serde_json::Map;

    use super::*;
    use crate::gguf::cursor::Cursor;

    /// Files of metadata as they stand in a GGUF file; `null` in a list is NaN.
    fn files_of(values: &Map<String, Value>) -> Result<TokenizerFiles> {
        fn text(bytes: &mut Vec<u8>, text: &str) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let mut bytes = Vec::new();
        for (name, value) in values {
            text(&mut bytes, name);
            let list = match value {
                Value::String(value) => {
                    bytes.extend(8_u32.to_le_bytes());
                    text(&mut bytes, value);
                    continue;
                }
                Value::Array(list) => list,
                other => panic!("{other}"),
            };
            bytes.extend(9_u32.to_le_bytes());
            let texts = list.iter().all(Value::is_string);
            bytes.extend(if texts { 8_u32 } else { 12 }.to_le_bytes());
            bytes.extend((list.len() as u64).to_le_bytes());
            for value in list {
                match value {
                    Value::String(value) => text(&mut bytes, value),
                    value => bytes.extend(value.as_f64().unwrap_or(f64::NAN).to_le_bytes()),
                }
            }
        }
        let metadata = Cursor::new(&bytes).metadata(values.len() as u64).unwrap();
        files(Path::new("made/up.gguf"), &metadata, &bytes)
    }

    fn built(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Value, String> {
        let values = json!({
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "a", "b", "ab", "aba"],
            "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -4.0, -3.0],
            "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1],
        });
        let Value::Object(mut metadata) = values else { unreachable!() };
        change(&mut metadata);
        let files = files_of(&metadata).map_err(|e| e.to_string())?;
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

    /// Names of the same way to cut words, and what is cut of a text with numbers.
    #[test]
    fn words_are_cut_by_name() {
        let pieces = |pre: &str| {
            let tokens = ["1", "2", "3", "4", "a", "\u{120}", "12", "123", "1234", "\u{120}a"];
            let merges = ["1 2", "12 3", "123 4", "\u{120} a"];
            let values = json!({
                "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
            });
            let Value::Object(metadata) = values else { unreachable!() };
            let files = files_of(&metadata).unwrap();
            let tokenizer = mlx_llamba::Tokenizer::from_files("made/up.gguf", &files).unwrap();
            let ids = tokenizer.encode("1234 a", false).unwrap();
            let pieces = ids.iter().map(|&id| tokenizer.token(id).unwrap());
            pieces.collect::<Vec<_>>().join("|").replace('\u{120}', "_")
        };
        for (names, expected) in [
            (&["gpt-2", "phi-2", "olmo"][..], "1234|_a"),
            (&["llama-bpe", "llama3", "falcon3", "pixtral", "midm-2.0", "lfm2"], "123|4|_a"),
            (&["smaug-bpe", "dbrx", "chatglm-bpe"], "123|4|_a"),
            (&["smollm", "starcoder", "qwen2", "tekken", "deepseek-coder", "viking"], "1|2|3|4|_a"),
            (&["deepseek-llm"], "1234|_a"),
            (&["default"], "123|4|_a"),
        ] {
            for name in names {
                assert_eq!(pieces(name), expected, "{name}");
            }
        }
        assert_eq!(cut("smaug-bpe").unwrap().0, cut("llama-bpe").unwrap().0);
        assert!(cut("falcon3").unwrap().1 && !cut("smaug-bpe").unwrap().1);
        assert!(cut("unheard-of").is_none());
    }

    #[test]
    fn what_is_missing_is_said() {
        for (key, value, expected) in [
            ("model", json!("t5"), "is \"t5\", expected byte-level BPE (gpt2) or SentencePiece"),
            ("scores", json!("a"), "its tokenizer has not a score and a kind for each token"),
            ("token_type", json!([1]), "its tokenizer has not a score and a kind for each token"),
            ("tokens", json!(["a", "a"]), "its list of tokens holds a token twice"),
            ("tokens", json!([1]), "its list of tokens holds something else than text"),
            ("tokens", json!("a"), "its tokenizer has no list of tokens"),
        ] {
            let error = built(|metadata| {
                metadata.insert(format!("tokenizer.ggml.{key}"), value);
            });
            let error = error.unwrap_err();
            assert!(error.contains(expected) && error.contains("made/up.gguf"), "{error}");
        }
    }
}
