//! The schemas of requests and answers, with the bounds that the model and the options set.

use mlx_llamba_engine::Engine;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::check::PREFIX;
use super::compatible;
use crate::options::Options;

/// The names of the schemas that describe bodies of requests.
const BODIES: [&str; 9] = [
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "EmbeddingRequest",
    "MessagesRequest",
    "ResponseRequest",
    "RewindRequest",
    "SessionRequest",
    "TokenizeRequest",
];
/// Biases that a request may have.
const BIASES: usize = 4096;

/// Collects the schemas of both directions.
pub(crate) struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    pub(crate) fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = PREFIX.into();
            settings
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    /// A reference to the schema of a request.
    pub(crate) fn request<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    /// A reference to the schema of an answer.
    pub(crate) fn answer<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    /// All schemas that were referred to, by name.
    pub(crate) fn definitions(mut self, engine: &Engine, options: &Options) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(false);
        all.extend(self.answers.take_definitions(false));
        all.values_mut().for_each(|schema| walk(schema, &mut integers));
        for name in BODIES {
            if let Some(body) = all.get_mut(name) {
                bounds(body, engine, options);
            }
        }
        if let Some(prompt) = all.get_mut("Prompt") {
            prompts(prompt, engine, options);
        }
        let rules = json!([
            // More than 0 likely tokens need log-probabilities to be asked for.
            unless("logprobs", &json!([true]), "top_logprobs", &json!([0, null])),
            // A message is continued, or a new one begins.
            { "anyOf": [
                { "properties": {
                    "continue_final_message": { "const": true },
                    "add_generation_prompt": { "enum": [false, null] },
                }, "required": ["continue_final_message"] },
                { "properties": {
                    "continue_final_message": { "enum": [false, null] },
                    "add_generation_prompt": { "enum": [true, null] },
                } },
            ] },
            // A choice of tools needs some.
            { "anyOf": [
                { "properties": { "tool_choice": { "enum": ["none", "auto", null] } } },
                { "properties": { "tools": { "type": "array", "minItems": 1 } }, "required": ["tools"] },
            ] },
        ]);
        if let Some(chat) = all.get_mut("ChatRequest") {
            chat["allOf"] = rules;
            for name in ["max_tokens", "max_completion_tokens"] {
                chat["properties"][name]["not"] = json!({ "const": 0 });
            }
        }
        all
    }
}

/// Completes the schema of a body.
fn bounds(body: &mut Value, engine: &Engine, options: &Options) {
    if options.strict {
        body["additionalProperties"] = false.into();
    }
    let Some(fields) = body["properties"].as_object_mut() else { return };
    if let Some(n) = fields.get_mut("n") {
        n["maximum"] = json!(engine.slots().min(options.limits.choices));
    }
    if let Some(bias) = fields.get_mut("logit_bias") {
        bias["maxProperties"] = json!(BIASES);
        bias["propertyNames"] = json!({ "pattern": below(engine.vocab_size()) });
        bias["additionalProperties"]["minimum"] = json!(-100);
        bias["additionalProperties"]["maximum"] = json!(100);
    }
    if options.strict
        && let Some(model) = fields.get_mut("model")
    {
        let names = options.names().map(Value::from).chain([Value::Null]);
        model["enum"] = names.collect();
    }
    if let Some(format) = fields.get_mut("response_format") {
        // An empty one asks for nothing.
        let given = format.take();
        *format = json!({ "anyOf": [given, { "type": "object", "maxProperties": 0 }] });
    }
    if !engine.template().is_some_and(|template| template.takes_tools()) {
        if let Some(tools) = fields.get_mut("tools") {
            *tools = json!({ "enum": [[], null] });
        }
        if let Some(choice) = fields.get_mut("tool_choice") {
            // Anthropic's clients write objects.
            let objects = choice.to_string().contains("InputToolChoice");
            let kind = |name: &str| if objects { json!({ "type": name }) } else { json!(name) };
            *choice = json!({ "enum": [null, kind("none"), kind("auto")] });
        }
    }
    compatible::complete(fields);
}

/// Completes the schema of prompts.
fn prompts(prompt: &mut Value, engine: &Engine, options: &Options) {
    let vocab = engine.vocab_size();
    walk(prompt, &mut |object| {
        if object.get("type") == Some(&json!("integer")) {
            object.insert("maximum".to_owned(), json!(vocab - 1));
        }
    });
    for kind in prompt["anyOf"].as_array_mut().into_iter().flatten() {
        if kind["type"] == "array" {
            let tokens = kind["items"]["type"] == "integer";
            let (ids, prompts) = (options.engine.prompt_tokens, options.limits.choices);
            kind["maxItems"] = json!(if tokens { ids } else { prompts });
        }
    }
}

/// Gives the bounds of an integer's format.
fn integers(object: &mut Map<String, Value>) {
    let bounds = match object.get("format").and_then(Value::as_str) {
        Some("uint32") => [("maximum", json!(u32::MAX))].to_vec(),
        Some("int64") => [("minimum", json!(i64::MIN)), ("maximum", json!(i64::MAX))].to_vec(),
        _ => return,
    };
    for (name, bound) in bounds {
        object.entry(name).or_insert(bound);
    }
}

/// A schema of objects in which `field` has one of `values`, or else `other` has one of `others`
/// or is absent.
fn unless(field: &str, values: &Value, other: &str, others: &Value) -> Value {
    json!({ "anyOf": [
        { "properties": { field: { "enum": values } }, "required": [field] },
        { "properties": { other: { "enum": others } } },
    ] })
}

/// Calls `change` for every object in `value`.
fn walk(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| walk(value, change));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, change)),
        _ => {}
    }
}

/// A pattern of the decimal numbers from 0 to `end - 1`, without leading zeros.
fn below(end: usize) -> String {
    let digits = end.to_string();
    let mut kinds = vec!["0".to_owned()];
    // Numbers with fewer digits.
    kinds.extend((1..digits.len()).map(|n| format!("[1-9][0-9]{{{}}}", n - 1)));
    // Numbers that have the first digits of `end` and then a smaller one.
    for (i, digit) in digits.bytes().enumerate() {
        let least = if i == 0 { b'1' } else { b'0' };
        if digit > least {
            let (before, rest) = (&digits[..i], digits.len() - i - 1);
            let (low, high) = (char::from(least), char::from(digit - 1));
            kinds.push(format!("{before}[{low}-{high}][0-9]{{{rest}}}"));
        }
    }
    format!("^({})$", kinds.join("|"))
}
