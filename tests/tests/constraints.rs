//! Constrained texts: whatever a random model writes is in the grammar, with any tokenizer, alone
//! and beside other rows.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use mlx_llamba::constraint::{Constraint, Grammar};
use mlx_llamba::decode::batch::{Batch, BatchEvent, BatchRequest, Step};
use mlx_llamba::decode::generation::{Completion, Generation, Reason};
use mlx_llamba::{Compute, Error, Llamba};
use mlx_llamba_tests::chat;
use mlx_llamba_tests::tiny::Tiny;
use safetensors::Dtype;
use serde_json::{Value, json};

/// A tiny model with SentencePiece's kind of tokenizer: pieces of text, and bytes for the rest.
fn pieces(seed: u64) -> Llamba {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    vocab.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let texts = [
        "\u{2581}",
        "\u{2581}\"",
        "{",
        "}",
        "\"",
        ":",
        ",",
        "[",
        "]",
        "a",
        "b",
        "ab",
        "{\"",
        "\":",
    ];
    vocab.extend(texts.map(str::to_owned));
    vocab.extend(('0'..='9').map(String::from));
    let ids: serde_json::Map<String, Value> =
        vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({"id": id, "content": vocab[id], "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let space = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": ids, "unk_token": "<unk>", "byte_fallback": true,
            "fuse_unk": true, "merges": ["\u{2581} \"", "a b", "{ \"", "\" :"]},
    });
    let directory = tempfile::tempdir().unwrap();
    let tiny = Tiny { vocab: vocab.len(), ..Tiny::default() };
    tiny.write(directory.path(), &tiny.tensors(seed), Dtype::F32, 1);
    std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"eos_token": "</s>"}).to_string();
    std::fs::write(directory.path().join("tokenizer_config.json"), config).unwrap();
    Llamba::builder(directory.path()).compute(Compute::Cpu).load().unwrap()
}

fn compile(llamba: &Llamba, grammar: &Grammar) -> Result<Constraint, Error> {
    Constraint::new(llamba.tokenizer().unwrap(), grammar)
}

fn write(llamba: &Llamba, grammar: &Grammar, seed: u64) -> Completion {
    let constraint = compile(llamba, grammar).unwrap();
    let options = Generation::default().temperature(1.0).seed(seed).max_tokens(400);
    llamba.generate("x", &options.constraint(constraint)).unwrap()
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }

    /// A schema whose values are short, nested at most `depth` times.
    fn schema(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 8 } else { 12 }) {
            0 => json!({"type": "boolean"}),
            1 => json!({"type": "null"}),
            2 => {
                let least = self.below(2000) as i64 - 1000;
                json!({"type": "integer", "minimum": least, "maximum": least + self.below(300) as i64})
            }
            3 => {
                let least = self.below(4);
                json!({"type": "string", "minLength": least, "maxLength": least + self.below(6)})
            }
            4 => json!({"enum": ["red", "\"quoted\"\n", 7, null, -1.5]}),
            5 => json!({"const": ["a/b", {"é\u{1f980}": true}]}),
            6 => json!({"type": "string", "pattern": "^[a-c]{2,4}$"}),
            7 => json!({"type": "string", "format": "date"}),
            8 => {
                let least = self.below(3);
                json!({"type": "array", "items": self.schema(depth - 1), "minItems": least,
                       "maxItems": least + self.below(3)})
            }
            9 => json!({"anyOf": [self.schema(depth - 1), self.schema(depth - 1)]}),
            _ => {
                let names = ["a", "name", "with space", "\"", "é"];
                let count = self.below(names.len() as u64 + 1) as usize;
                let properties: serde_json::Map<String, Value> = names[..count]
                    .iter()
                    .map(|n| ((*n).to_owned(), self.schema(depth - 1)))
                    .collect();
                let required: Vec<&str> =
                    names[..count].iter().copied().filter(|_| self.below(2) == 0).collect();
                json!({"type": "object", "properties": properties, "required": required,
                       "additionalProperties": false})
            }
        }
    }
}

/// Returns true if `schema`, one of those above, describes `value`.
fn valid(schema: &Value, value: &Value) -> bool {
    let within = |low: &str, high: &str, found: i64| {
        let bound = |key: &str| schema[key].as_i64();
        bound(low).is_none_or(|l| found >= l) && bound(high).is_none_or(|h| found <= h)
    };
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| valid(option, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    if let Some(only) = schema.get("const") {
        return only == value;
    }
    match schema["type"].as_str().unwrap() {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.as_i64().is_some_and(|found| within("minimum", "maximum", found)),
        "string" => value.as_str().is_some_and(|text| {
            let length = text.chars().count() as i64;
            let digits = |range: std::ops::Range<usize>| {
                text.get(range).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()))
            };
            within("minLength", "maxLength", length)
                && (schema.get("pattern").is_none()
                    || (2..=4).contains(&length) && text.chars().all(|c| ('a'..='c').contains(&c)))
                && (schema.get("format").is_none()
                    || text.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10))
        }),
        "array" => value.as_array().is_some_and(|items| {
            within("minItems", "maxItems", items.len() as i64)
                && items.iter().all(|item| valid(&schema["items"], item))
        }),
        "object" => value.as_object().is_some_and(|object| {
            let required = schema["required"].as_array().unwrap();
            required.iter().all(|name| object.contains_key(name.as_str().unwrap()))
                && object.iter().all(|(name, value)| {
                    schema["properties"].get(name).is_some_and(|schema| valid(schema, value))
                })
        }),
        other => panic!("{other}"),
    }
}

/// Writes a text for each generated schema with all of them in one batch, so that the rows have
/// different grammars and end at different steps.
fn every_text_is_valid(llamba: &Llamba, seed: u64, count: u64) {
    let mut numbers = Numbers(seed);
    let mut batch = Batch::new(llamba, 64).unwrap();
    let mut schemas = BTreeMap::new();
    for i in 0..count {
        let schema = numbers.schema(3);
        let constraint = compile(llamba, &Grammar::JsonSchema(schema.clone())).unwrap();
        let options = Generation::default().temperature(1.0).seed(i).max_tokens(2000);
        let prompt = llamba.tokenizer().unwrap().encode("x", true).unwrap();
        let request =
            BatchRequest::new(llamba.context().unwrap(), prompt, options.constraint(constraint));
        schemas.insert(batch.add(request).unwrap(), (schema, String::new()));
    }
    let mut ended = 0;
    while !batch.is_empty() {
        for BatchEvent { request, step, .. } in batch.step().unwrap() {
            let (schema, whole) = schemas.get_mut(&request).unwrap();
            match step {
                Step::Token { text, .. } => whole.push_str(&text),
                Step::End { text, reason, .. } => {
                    whole.push_str(&text);
                    assert!(
                        matches!(reason, Reason::Complete | Reason::Eos(_)),
                        "{reason:?}: {whole}"
                    );
                    let value = serde_json::from_str(whole)
                        .unwrap_or_else(|e| panic!("{e}: {whole:?} of {schema}"));
                    assert!(valid(schema, &value), "{whole:?} is not of {schema}");
                    ended += 1;
                }
                _ => {}
            }
        }
    }
    assert_eq!(ended, count);
}

#[test]
fn every_text_of_generated_schemas_is_valid_with_byte_level_tokens() {
    every_text_is_valid(&chat::load(5), 1, 60);
}

#[test]
fn every_text_of_generated_schemas_is_valid_with_sentencepiece_tokens() {
    every_text_is_valid(&pieces(5), 2, 60);
}

/// Where only one text can follow, its tokens are those that the tokenizer writes.
#[test]
fn forced_texts_have_the_tokenizers_own_tokens() {
    for (llamba, text, expected) in [
        (
            pieces(1),
            "ab{\"a\": ba \"",
            vec!["ab", "{\"", "a", "\":", "\u{2581}", "b", "a", "\u{2581}\""],
        ),
        (Llamba::embedded().compute(Compute::Cpu).load().unwrap(), "upon a time", Vec::new()),
    ] {
        let tokenizer = llamba.tokenizer().unwrap();
        let completion = write(&llamba, &Grammar::Choice(vec![text.to_owned()]), 1);
        assert_eq!((completion.text.as_str(), completion.reason), (text, Reason::Complete));
        let expected = match expected[..] {
            [] => tokenizer.encode(text, false).unwrap(),
            _ => expected.iter().map(|token| tokenizer.token_id(token).unwrap()).collect(),
        };
        assert_eq!(completion.tokens, expected);
    }
}
