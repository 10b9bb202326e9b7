//! Bodies: from JSON to a request type, by way of its schema.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::check::check;
use super::unique::Unique;
use crate::problem::Problem;

/// The body of a request. Its derived schema is the one place for names, types, bounds and
/// descriptions of fields: it is published, and bodies are checked against it.
pub(crate) trait Body: JsonSchema + Sized + Send + 'static {
    /// Fields that are checked elsewhere, most of them by the engine or the chat template.
    const FREE: &'static [&'static str];

    /// Reads the fields out of a JSON object.
    ///
    /// # Errors
    /// 400, naming the field.
    fn read(object: &Value) -> Result<Self, Problem>;

    /// The name of the model that is asked for.
    fn model(&self) -> Option<&str> {
        None
    }
}

/// Reads a body. Returns the names of unknown parameters too.
///
/// # Errors
/// 400, naming the parameter that is wrong or not supported, or, if `strict`, unknown.
pub(crate) fn parse<T: Body>(
    definitions: Option<&Map<String, Value>>,
    strict: bool,
    bytes: &[u8],
) -> Result<(T, Vec<String>), Problem> {
    let invalid = |message: String| Problem::bad(message).code("invalid_json");
    // Some programs for Windows begin every text with this mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let Unique(mut value) = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("the body is not valid JSON: {error}")))?;
    let Value::Object(object) = &mut value else {
        return Err(invalid("the body is not a JSON object".to_owned()));
    };
    let none = Map::new();
    let definitions = definitions.unwrap_or(&none);
    let schema = definitions.get(&*T::schema_name()).unwrap_or(&Value::Null);
    let properties = schema.get("properties").and_then(Value::as_object);
    let known = |name: &str| properties.and_then(|all| all.get(name));
    let unknown = object.iter().filter(|(name, value)| !value.is_null() && known(name).is_none());
    let unknown: Vec<String> = unknown.map(|(name, _)| name.clone()).collect();
    if let Some(name) = unknown.first().filter(|_| strict) {
        return Err(Problem::unknown(name));
    }
    for (name, value) in object.iter_mut() {
        // 1 and 1.0 are the same number, except to a template, which prints them.
        if name == "prompt" || !T::FREE.contains(&name.as_str()) || value.is_number() {
            whole_numbers(value);
        }
    }
    let body = T::read(&value)?;
    for (name, value) in value.as_object().into_iter().flatten() {
        let Some(schema) = known(name).filter(|_| !T::FREE.contains(&name.as_str())) else {
            continue;
        };
        check(definitions, schema, value, name).map_err(|violation| {
            let problem = Problem::parameter(name.clone(), violation.message);
            if violation.unsupported { problem.code("unsupported_parameter") } else { problem }
        })?;
    }
    Ok((body, unknown))
}

/// Deserializes a part of a request, which ignores the fields of the other parts.
///
/// # Errors
/// 400, naming the field.
pub(crate) fn part<T: DeserializeOwned>(object: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let path = error.path().to_string();
        let inner = without_text(&error.inner().to_string());
        // A missing field of the body has no path.
        if path == "." {
            return Problem::bad(inner).code("invalid_type");
        }
        Problem::parameter(path, inner).code("invalid_type")
    })
}

/// Checks that every `type` in a value is a string, except in the fields `free`: serde takes numbers
/// for the names of kinds.
///
/// # Errors
/// 400, naming the parameter.
pub(crate) fn kinds(object: &Value, free: &[&str]) -> Result<(), Problem> {
    fn fits(value: &Value, free: &[&str]) -> bool {
        match value {
            Value::Object(fields) => fields.iter().all(|(name, value)| {
                free.contains(&name.as_str())
                    || (name != "type" || value.is_string()) && fits(value, free)
            }),
            Value::Array(items) => items.iter().all(|item| fits(item, free)),
            _ => true,
        }
    }
    let wrong = object
        .as_object()
        .into_iter()
        .flatten()
        .find(|(name, value)| !free.contains(&name.as_str()) && !fits(value, free));
    match wrong {
        Some((name, _)) => Err(Problem::parameter(name.clone(), "type: expected a string")),
        None => Ok(()),
    }
}

/// Removes a string that serde found in the place of something else: it may be a whole prompt, and
/// errors are logged.
fn without_text(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(from), Some(to)) if from < to => {
            format!("{}string{}", &message[..from], &message[to + 1..])
        }
        _ => message.to_owned(),
    }
}

/// Writes whole numbers without a fraction: JSON's 1.0 is an integer.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15);
            if let Some(whole) = whole {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::part;

    #[test]
    fn errors_do_not_repeat_texts() {
        let object = json!({ "messages": "a \"secret\", expected" });
        #[derive(Debug, serde::Deserialize)]
        struct Fields {
            #[serde(rename = "messages")]
            _messages: Vec<u32>,
        }
        let problem = part::<Fields>(&object).map(drop).unwrap_err().to_string();
        assert!(
            problem.contains("messages: invalid type: string, expected a sequence"),
            "{problem}"
        );
    }
}
