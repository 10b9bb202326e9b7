//! Generated schemas, and the JSON Schema test suite: what a constraint allows is JSON of its schema.
//!
//! `scripts/schema-check` runs these tests with more schemas, and lets another validator check the
//! outputs too.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Constraint, Grammar};
use crate::decode::batch::{BatchRequest, RequestId, Step};
use crate::{Batch, Compute, Generation, Llamba, Reason};

/// Tests are as many as this variable says.
const COUNT: &str = "MLX_LLAMBA_SCHEMAS";
/// A file for schemas and outputs, as lines of JSON.
const OUTPUT: &str = "MLX_LLAMBA_SCHEMAS_OUTPUT";
/// A directory of the JSON Schema test suite, such as its `tests/draft2020-12`.
const SUITE: &str = "MLX_LLAMBA_SCHEMA_SUITE";

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// A schema of at most `depth` levels.
    fn schema(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 7 } else { 11 }) {
            0 => {
                let least = self.below(4);
                json!({"type": "string", "minLength": least, "maxLength": least + self.below(9)})
            }
            1 => {
                let patterns = ["^[a-f]{2,6}$", "^(red|blue)-[0-9]{3}$", "^[A-Z][a-z]{1,7}$"];
                json!({"type": "string", "pattern": patterns[self.below(3)]})
            }
            2 => {
                let least = self.below(2000) as i64 - 1000;
                json!({"type": "integer", "minimum": least, "maximum": least + self.below(500) as i64})
            }
            3 => json!({"type": "number", "exclusiveMinimum": -1, "maximum": self.below(99),
                      "multipleOf": 0.25}),
            4 => json!({"type": ["boolean", "null"]}),
            5 => {
                json!({"enum": ["a \"b\" \\ c", 1.5, null, [1, {"x": true}], "\u{e9}\n\u{1f980}"]})
            }
            6 => json!({"const": {"kind": self.below(100), "of": ["\u{65e5}\u{672c}", false]}}),
            7 => {
                let least = self.below(3);
                json!({"type": "array", "items": self.schema(depth - 1), "minItems": least,
                       "maxItems": least + self.below(3)})
            }
            8 => {
                let parts: Vec<Value> = (0..2).map(|_| self.schema(depth - 1)).collect();
                json!({"anyOf": parts})
            }
            _ => {
                let names = ["name", "number of legs", "a\"b", "\u{fc}ber", "x"];
                let (mut properties, mut required) = (Map::new(), Vec::new());
                for name in names.iter().take(1 + self.below(names.len())) {
                    properties.insert((*name).to_owned(), self.schema(depth - 1));
                    if !self.chance(3) {
                        required.push(*name);
                    }
                }
                json!({"type": "object", "properties": properties, "required": required,
                       "additionalProperties": false})
            }
        }
    }
}

/// True if `value` is valid, for the keywords that generated schemas have.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let number = |key: &str| schema[key].as_f64();
    let kind_of = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let kinds = match &schema["type"] {
        Value::String(name) => kind_of(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(kind_of),
        _ => true,
    };
    let text = value.as_str().is_none_or(|text| {
        let length = text.chars().count() as f64;
        let pattern = schema["pattern"].as_str();
        number("minLength").is_none_or(|least| length >= least)
            && number("maxLength").is_none_or(|most| length <= most)
            && pattern.is_none_or(|pattern| regex_lite_matches(pattern, text))
    });
    let size = value.as_f64().is_none_or(|size| {
        number("minimum").is_none_or(|least| size >= least)
            && number("exclusiveMinimum").is_none_or(|least| size > least)
            && number("maximum").is_none_or(|most| size <= most)
            && number("multipleOf").is_none_or(|part| (size / part).fract() == 0.0)
    });
    let items = value.as_array().is_none_or(|items| {
        number("minItems").is_none_or(|least| items.len() as f64 >= least)
            && number("maxItems").is_none_or(|most| items.len() as f64 <= most)
            && items.iter().all(|item| schema.get("items").is_none_or(|of| is_valid(of, item)))
    });
    let fields = value.as_object().is_none_or(|fields| {
        let required = schema["required"].as_array().into_iter().flatten();
        let known = |(name, field): (&String, &Value)| {
            schema
                .get("properties")
                .is_none_or(|all| all.get(name).is_some_and(|of| is_valid(of, field)))
        };
        required.filter_map(Value::as_str).all(|name| fields.contains_key(name))
            && fields.iter().all(known)
    });
    let any = schema["anyOf"].as_array();
    kinds
        && text
        && size
        && items
        && fields
        && schema["enum"].as_array().is_none_or(|values| values.contains(value))
        && schema.get("const").is_none_or(|of| of == value)
        && any.is_none_or(|parts| parts.iter().any(|part| is_valid(part, value)))
}

/// Matches the three patterns of generated schemas.
fn regex_lite_matches(pattern: &str, text: &str) -> bool {
    let bytes = text.as_bytes();
    let all = |bytes: &[u8], kind: fn(&u8) -> bool| bytes.iter().all(kind);
    match &pattern[..2] {
        "^[" if pattern.contains("a-f") => {
            (2..=6).contains(&bytes.len()) && all(bytes, |b| (b'a'..=b'f').contains(b))
        }
        "^[" => {
            (2..=8).contains(&bytes.len())
                && bytes[0].is_ascii_uppercase()
                && all(&bytes[1..], u8::is_ascii_lowercase)
        }
        _ => text.split_once('-').is_some_and(|(color, number)| {
            ["red", "blue"].contains(&color)
                && number.len() == 3
                && all(number.as_bytes(), u8::is_ascii_digit)
        }),
    }
}

/// Writes a text for each constraint, all of them in one batch. Returns the texts that are complete,
/// in order, and `None` for those that reached the limit.
fn texts(llamba: &Llamba, constraints: Vec<Constraint>) -> Vec<Option<String>> {
    let mut batch = Batch::new(llamba, 256).unwrap();
    let mut texts: HashMap<RequestId, (String, bool)> = HashMap::new();
    let prompt = llamba.require_tokenizer().unwrap().encode("Lily has", true).unwrap();
    let mut ids = Vec::new();
    for (seed, constraint) in (0..).zip(constraints) {
        let options = Generation::default().max_tokens(300).temperature(0.9).seed(seed);
        let options = options.constraint(constraint);
        let context = llamba.context().unwrap();
        ids.push(batch.add(BatchRequest::new(context, prompt.clone(), options)).unwrap());
    }
    while !batch.is_empty() {
        for event in batch.step().unwrap() {
            let (text, whole) = texts.entry(event.request).or_default();
            match event.step {
                Step::Token { text: more, .. } => text.push_str(&more),
                Step::End { text: more, reason, .. } => {
                    text.push_str(&more);
                    *whole = !matches!(reason, Reason::Length);
                }
                _ => {}
            }
        }
    }
    ids.into_iter()
        .map(|id| texts.remove(&id).filter(|(_, whole)| *whole).map(|(text, _)| text))
        .collect()
}

/// Appends schemas with their outputs to the file that [`OUTPUT`] names.
fn record(schemas: &[Value], texts: &[Option<String>]) {
    let Some(path) = std::env::var_os(OUTPUT) else { return };
    let mut lines = String::new();
    for (schema, text) in schemas.iter().zip(texts) {
        if let Some(text) = text {
            writeln!(lines, "{}", json!({"schema": schema, "output": text})).unwrap();
        }
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
}

fn llamba() -> Llamba {
    Llamba::embedded().compute(Compute::Cpu).load().unwrap()
}

#[test]
fn generated_schemas_have_valid_texts() {
    let count = std::env::var(COUNT).map_or(24, |count| count.parse().unwrap());
    let (llamba, mut numbers) = (llamba(), Numbers(7));
    let schemas: Vec<Value> = (0..count).map(|_| numbers.schema(3)).collect();
    let mut cut = 0;
    for schemas in schemas.chunks(50) {
        let constraint = |schema: &Value| {
            let grammar = Grammar::JsonSchema(schema.clone());
            Constraint::new(llamba.require_tokenizer().unwrap(), &grammar).unwrap()
        };
        let texts = texts(&llamba, schemas.iter().map(constraint).collect());
        for (schema, text) in schemas.iter().zip(&texts) {
            let Some(text) = text else {
                cut += 1;
                continue;
            };
            let value: Value = serde_json::from_str(text).unwrap();
            assert!(is_valid(schema, &value), "{schema}\n{text}");
        }
        record(schemas, &texts);
    }
    // A model of stories may go on with the digits of a number.
    assert!(10 * cut <= count, "{cut} of {count} are cut");
    assert!(!is_valid(
        &json!({"type": "object", "properties": {"x": {"maximum": 1}}}),
        &json!({"x": 2})
    ));
}

/// Schemas that are supported allow none of the suite's invalid instances, and their texts are JSON.
#[test]
fn the_test_suite_of_json_schema() {
    let Some(suite) = std::env::var_os(SUITE) else { return };
    let llamba = llamba();
    let tokenizer = llamba.require_tokenizer().unwrap();
    let (mut schemas, mut constraints, mut unsupported, mut wrong) =
        (Vec::new(), Vec::new(), 0, Vec::new());
    let (mut invalid, mut valid, mut allowed) = (0, 0, 0);
    let mut files: Vec<_> =
        std::fs::read_dir(Path::new(&suite)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "json"))
    {
        let groups: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let schema = &group["schema"];
            let Ok(constraint) = Constraint::new(tokenizer, &Grammar::JsonSchema(schema.clone()))
            else {
                unsupported += 1;
                continue;
            };
            for test in group["tests"].as_array().unwrap() {
                // As the grammar spaces it.
                let text = spaced(&test["data"]);
                let mut matcher = constraint.matcher();
                let ids = tokenizer.encode(&text, false).unwrap();
                let accepted =
                    matcher.consume_tokens(&ids).is_ok() && matcher.is_accepting().unwrap_or(false);
                match test["valid"].as_bool().unwrap() {
                    true => (valid, allowed) = (valid + 1, allowed + usize::from(accepted)),
                    false => {
                        invalid += 1;
                        if accepted {
                            wrong.push(format!(
                                "{}: {} {text}",
                                file.display(),
                                group["description"]
                            ));
                        }
                    }
                }
            }
            schemas.push(schema.clone());
            constraints.push(constraint);
        }
    }
    println!(
        "{} schemas supported, {unsupported} not; {invalid} invalid instances, {} of them allowed; {valid} \
         valid ones, {allowed} of them allowed",
        schemas.len(),
        wrong.len()
    );
    for (schemas, constraints) in schemas.chunks(50).zip(constraints.chunks(50)) {
        let texts = texts(&llamba, constraints.to_vec());
        for text in texts.iter().flatten() {
            // JSON has numbers that no float has.
            let read = serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
            assert!(read.is_ok() || read.is_err_and(|e| e.contains("out of range")), "{text}");
        }
        record(schemas, &texts);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// JSON with a blank after commas and colons.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{}: {}", json!(name), spaced(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
