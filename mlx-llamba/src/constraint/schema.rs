//! Parts of JSON schemas.

use serde_json::Value;

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
