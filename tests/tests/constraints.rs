//! Constrained texts: whatever a random model writes is in the grammar, with any tokenizer, alone
//! and beside other rows.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use mlx_llamba::constraint::{Constraint, Grammar};
use mlx_llamba::decode::batch::{Batch, BatchEvent, BatchRequest, Step};
use mlx_llamba::decode::generation::{Completion, Generation, Reason};
use mlx_llamba::tool_calls::{CallParser, Piece, Tool, ToolFormat};
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
    let marks = vocab.len()..vocab.len() + 4;
    vocab.extend(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"].map(str::to_owned));
    let ids: serde_json::Map<String, Value> =
        vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({"id": id, "content": vocab[id], "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let space = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..3).chain(marks).map(special).collect::<Vec<_>>(),
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

/// If only one text can follow, its tokens are those that the tokenizer writes.
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

/// Whatever a random model writes where it must call a tool is a call with valid arguments, whether
/// or not the marks around calls are special tokens.
#[test]
fn required_calls_are_calls() {
    use ToolFormat::{Hermes, Json, Mistral, MistralArgs, Pythonic, QwenXml};
    let color = json!({"type": "object", "required": ["color"], "additionalProperties": false,
        "properties": {
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
            "color": {"enum": ["red", "blue"]},
            "on": {"$ref": "#/$defs/switch"}},
        "$defs": {"switch": {"type": "boolean"}}});
    let plain = json!({"type": "object", "required": ["color"], "additionalProperties": false,
        "properties": {
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
            "color": {"enum": ["red", "blue"]},
            "on": {"type": "boolean"}}});
    let tools = [Tool::new("paint", Some(color)), Tool::new("wait", None)];
    for (kind, llamba) in [chat::load(3), pieces(3)].iter().enumerate() {
        let tokenizer = llamba.tokenizer().unwrap();
        let mut names = Vec::new();
        for format in [Hermes, QwenXml, Json, Pythonic, Mistral, MistralArgs] {
            let grammar = format.grammar(&tools, tokenizer, false, None).unwrap();
            for seed in 0..3 {
                let completion = write(llamba, &grammar, seed);
                let what = format!("{format:?} {kind} {:?}", completion.text);
                assert!(matches!(completion.reason, Reason::Complete | Reason::Eos(_)), "{what}");
                let mut text = tokenizer.decode(&completion.tokens, false).unwrap();
                if let Reason::Eos(eos) = completion.reason {
                    text.truncate(text.len() - tokenizer.token(eos).unwrap().len());
                }
                let mut parser = CallParser::new(format, tools.to_vec());
                let mut pieces = parser.push(&text);
                pieces.extend(parser.finish());
                let [Piece::Call(call)] = &pieces[..] else { panic!("{what}: {pieces:?}") };
                let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
                match call.name.as_str() {
                    "paint" => assert!(valid(&plain, &arguments), "{what}"),
                    name => assert_eq!((name, arguments), ("wait", json!({})), "{what}"),
                }
                names.push(call.name.clone());
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["paint", "wait"], "{kind}");
    }
}

#[test]
fn a_reply_calls_several_tools_or_has_a_format() {
    let llamba = chat::load(4);
    let tokenizer = llamba.tokenizer().unwrap();
    let tools = [Tool::new("a", None), Tool::new("b", None)];
    let several = ToolFormat::Hermes.grammar(&tools, tokenizer, true, None).unwrap();
    let either = json!({"type": "boolean"});
    let either = ToolFormat::Hermes.grammar(&tools, tokenizer, false, Some(&either)).unwrap();
    let (mut calls, mut kinds) = (0, [0, 0]);
    for seed in 0..8 {
        let text = write(&llamba, &several, seed).text;
        let mut parser = CallParser::new(ToolFormat::Hermes, tools.to_vec());
        let found = parser.push(&text);
        assert!(found.iter().all(|piece| matches!(piece, Piece::Call(_))), "{text:?}");
        calls = calls.max(found.len());
        let text = write(&llamba, &either, seed).text;
        kinds[usize::from(text.starts_with('<'))] += 1;
        assert!(text.starts_with("<tool_call>") || text == "true" || text == "false", "{text:?}");
    }
    assert!(calls > 1 && kinds[0] > 0 && kinds[1] > 0, "{calls} {kinds:?}");
    let bad = [Tool::new("a b", None)];
    let error = ToolFormat::Json.grammar(&bad, tokenizer, false, None).unwrap_err();
    assert_eq!(error.to_string(), "tool: \"a b\": expected letters, digits, _, . and -");
}
