//! Parts of JSON schemas.

use serde_json::{Map, Value, json};

/// Keywords whose value is a schema, or a list of schemas.
const SCHEMAS: [&str; 7] =
    ["items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf", "not"];
/// Keywords whose value is a map of schemas.
const MAPS: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// The most parts that are looked at.
const TRIES: usize = 200;

/// The JSON pointer of the innermost part of `schema` that fails by itself; "" if no part does. Each
/// part is tried with the definitions of the whole.
pub(super) fn find(schema: &Value, fails: impl Fn(Value) -> bool) -> String {
    let (mut place, mut inner, mut tries) = (String::new(), schema, 0);
    'deeper: loop {
        for (pointer, part) in parts(inner) {
            tries += 1;
            if tries > TRIES {
                return place;
            }
            if fails(with_definitions(part, schema)) {
                place.push_str(&pointer);
                inner = part;
                continue 'deeper;
            }
        }
        return place;
    }
}

/// The schemas directly inside of a schema, with their pointers from there.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let mut parts = Vec::new();
    for key in SCHEMAS {
        match &schema[key] {
            Value::Array(list) => {
                let part = |(i, part)| (format!("/{key}/{i}"), part);
                parts.extend(list.iter().enumerate().map(part));
            }
            part @ Value::Object(_) => parts.push((format!("/{key}"), part)),
            _ => {}
        }
    }
    for key in MAPS {
        let map = schema[key].as_object().into_iter().flatten();
        let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
        parts.extend(map.map(|(name, part)| (format!("/{key}/{}", escaped(name)), part)));
    }
    parts
}

fn with_definitions(part: &Value, whole: &Value) -> Value {
    let mut part = part.clone();
    if let Some(map) = part.as_object_mut() {
        for key in ["$defs", "definitions", "$schema"] {
            if let (false, Some(value)) = (map.contains_key(key), whole.get(key)) {
                map.insert(key.to_owned(), value.clone());
            }
        }
    }
    part
}

/// The schema with separators between which there is no other space, and with closed objects: a
/// small model writes spaces and properties without end.
pub(crate) fn prepared(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if !combines(&schema) {
        close(&mut schema);
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("x-guidance").or_insert_with(
            || json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
        );
    }
    schema
}

/// True if an object may be described by several schemas at once, each with some of its properties.
fn combines(schema: &Value) -> bool {
    let also = |object: &Map<String, Value>| {
        let several =
            object.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        let others =
            ["allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas", "unevaluatedProperties"];
        several
            || object.contains_key("properties")
                && others.iter().any(|key| object.contains_key(*key))
    };
    schema.as_object().is_some_and(also) || parts(schema).iter().any(|(_, part)| combines(part))
}

fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let lists =
        object.get("properties").and_then(Value::as_object).is_some_and(|all| !all.is_empty());
    if lists && !object.contains_key("patternProperties") {
        object.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    for (key, value) in object {
        if MAPS.contains(&key.as_str()) {
            value.as_object_mut().into_iter().flatten().for_each(|(_, part)| close(part));
        } else if SCHEMAS.contains(&key.as_str()) {
            match value {
                Value::Array(list) => list.iter_mut().for_each(close),
                part => close(part),
            }
        }
    }
}
