//! Reading a request's body: every field is known, or refused by name.

use std::collections::HashSet;
use std::sync::OnceLock;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::unique::Unique;
use crate::problem::Problem;

/// A request's body.
pub(crate) trait Fields: DeserializeOwned + JsonSchema {
    /// Parameters that OpenAI's servers take and this one does not. As `null` they ask for
    /// nothing and may be there.
    const UNSUPPORTED: &'static [&'static str];

    /// The names of the fields, out of the published description.
    fn known() -> &'static HashSet<String>;

    /// Out of JSON.
    ///
    /// # Errors
    /// 400, naming the parameter that is wrong, unsupported or unknown.
    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let Unique(value) = serde_json::from_slice(bytes).map_err(|e| {
            Problem::bad(format!("the body is not valid JSON: {e}")).code("invalid_json")
        })?;
        let Value::Object(mut object) = value else {
            return Err(Problem::bad("the body is not a JSON object").code("invalid_json"));
        };
        let unsupported = |name: &String| Self::UNSUPPORTED.contains(&name.as_str());
        object.retain(|name, value| !(value.is_null() && unsupported(name)));
        if let Some(name) = object.keys().find(|name| unsupported(name)) {
            return Err(Problem::unsupported(name));
        }
        if let Some(name) = object.keys().find(|name| !Self::known().contains(*name)) {
            return Err(Problem::unknown(name));
        }
        for (name, value) in &mut object {
            // What goes to the chat template is handed on as it is.
            if !matches!(name.as_str(), "messages" | "tools") || value.is_number() {
                whole_numbers(value);
            }
        }
        serde_path_to_error::deserialize(Value::Object(object)).map_err(|e| {
            let path = e.path().to_string();
            let problem = Problem::new(StatusCode::BAD_REQUEST, format!("{path}: {}", e.inner()));
            let top = path.split(['.', '[']).next().unwrap_or_default().to_owned();
            let problem = problem.code("invalid_type");
            if Self::known().contains(&top) { problem.param(path) } else { problem }
        })
    }
}

/// Writes whole numbers as such: JSON's 1.0 is an integer.
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

/// The names of `T`'s fields, found once.
pub(crate) fn names<T: JsonSchema>(
    cell: &'static OnceLock<HashSet<String>>,
) -> &'static HashSet<String> {
    cell.get_or_init(|| {
        let schema = schemars::schema_for!(T);
        let properties = schema.get("properties").and_then(Value::as_object);
        properties.map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    })
}

/// Says which type reads a body.
macro_rules! fields {
    ($type:ty, unsupported: $names:expr) => {
        impl $crate::api::fields::Fields for $type {
            const UNSUPPORTED: &'static [&'static str] = $names;

            fn known() -> &'static std::collections::HashSet<String> {
                static NAMES: std::sync::OnceLock<std::collections::HashSet<String>> =
                    std::sync::OnceLock::new();
                $crate::api::fields::names::<$type>(&NAMES)
            }
        }
    };
}
pub(crate) use fields;
