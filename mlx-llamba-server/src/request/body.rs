//! Bodies: from JSON to a request type, by way of its schema.

use std::borrow::Cow;
use std::fmt::Display;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::check::check;
use super::raw::each;
use super::sound::Sound;
use crate::problem::Problem;

/// The most unknown parameters that are remembered.
const UNKNOWN: usize = 20;

/// The known fields of a body, each as its JSON.
pub(crate) struct Object<'t>(Vec<(String, Cow<'t, RawValue>)>);

/// The body of a request. Its derived schema is the one place for names, types, bounds and
/// descriptions of fields: it is published, and bodies are checked against it.
pub(crate) trait Body: JsonSchema + Sized + Send + 'static {
    /// Fields that are checked elsewhere, most of them by the engine or the chat template.
    const FREE: &'static [&'static str];

    /// Reads the fields of a JSON object.
    ///
    /// # Errors
    /// 400, naming the field.
    fn read(object: &Object<'_>) -> Result<Self, Problem>;

    /// The name of the model that is asked for.
    fn model(&self) -> Option<&str> {
        None
    }
}

/// Reads a body. Returns the names of unknown parameters too, not more than 20.
///
/// The whole body is never a tree. Its text is checked against the schema before anything is made of it,
/// and then each field is read into its type.
///
/// # Errors
/// 400, naming the parameter that is wrong or not supported, or, if `strict`, unknown.
pub(crate) fn parse<T: Body>(
    definitions: Option<&Map<String, Value>>,
    strict: bool,
    bytes: &[u8],
) -> Result<(T, Vec<String>), Problem> {
    let invalid = |message: String| Problem::bad(message).code("invalid_json");
    let malformed = |error: &dyn Display| invalid(format!("the body is not valid JSON: {error}"));
    // Some programs for Windows begin every text with this mark.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(&error))?;
    Sound::default().check(text).map_err(|error| malformed(&error))?;
    if !text.trim_start().starts_with('{') {
        return Err(invalid("the body is not a JSON object".to_owned()));
    }
    let none = Map::new();
    let definitions = definitions.unwrap_or(&none);
    let schema = definitions.get(&*T::schema_name()).unwrap_or(&Value::Null);
    let properties = schema.get("properties").and_then(Value::as_object);
    let known = |name: &str| properties.and_then(|all| all.get(name));
    let (mut object, mut unknown) = (Object(Vec::new()), Vec::new());
    each(text, |name, value| match known(name) {
        Some(_) => object.0.push((name.to_owned(), whole(value))),
        None if value.get() != "null" && unknown.len() < UNKNOWN => unknown.push(name.to_owned()),
        None => {}
    });
    if let Some(name) = unknown.first().filter(|_| strict) {
        return Err(Problem::unknown(name));
    }
    for (name, value) in &object.0 {
        let Some(schema) = known(name).filter(|_| !T::FREE.contains(&name.as_str())) else {
            continue;
        };
        check(definitions, schema, value, name).map_err(|violation| {
            let problem = Problem::parameter(name.clone(), violation.message);
            if violation.unsupported { problem.code("unsupported_parameter") } else { problem }
        })?;
    }
    Ok((T::read(&object)?, unknown))
}

/// Deserializes a part of a request, which ignores the fields of the other parts.
///
/// # Errors
/// 400, naming the field.
pub(crate) fn part<'t, T: Deserialize<'t>>(object: &'t Object<'_>) -> Result<T, Problem> {
    let fields = object.0.iter().map(|(name, value)| (name.as_str(), &**value));
    let fields = MapDeserializer::<_, serde_json::Error>::new(fields);
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        // A place in the field alone helps nobody.
        let place = format!(" at line {} column {}", inner.line(), inner.column());
        let inner = inner.to_string();
        let inner = without_text(inner.strip_suffix(&place).unwrap_or(&inner));
        // A missing field of the body has no path.
        if path == "." {
            return Problem::bad(inner).code("invalid_type");
        }
        Problem::parameter(path, inner).code("invalid_type")
    })
}

/// Checks that every `type` in a body is a string, except in the fields `free`: serde takes numbers
/// for the names of kinds.
///
/// # Errors
/// 400, naming the parameter.
pub(crate) fn kinds(object: &Object<'_>, free: &[&str]) -> Result<(), Problem> {
    let sound = Sound { kinds_except: Some(free) };
    let bound = object.0.iter().filter(|(name, _)| !free.contains(&name.as_str()));
    match bound.into_iter().find(|(_, value)| sound.check(value.get()).is_err()) {
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

/// Writes a whole number without a fraction: JSON's 1.0 is an integer.
fn whole(value: &RawValue) -> Cow<'_, RawValue> {
    let number = value.get().parse().ok();
    let whole = number.filter(|x: &f64| x.fract() == 0.0 && x.abs() < 9e15);
    let whole = whole.and_then(|x| RawValue::from_string((x as i64).to_string()).ok());
    whole.map_or(Cow::Borrowed(value), Cow::Owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::borrow::Cow;

    use serde_json::value::RawValue;

    use super::{Object, part};

    #[test]
    fn errors_do_not_repeat_texts() {
        let value = RawValue::from_string(r#""a \"secret\", expected""#.to_owned()).unwrap();
        let object = Object(vec![("messages".to_owned(), Cow::Owned(value))]);
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
