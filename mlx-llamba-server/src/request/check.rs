//! Checks of a request against its published schema.

use serde_json::{Map, Value};

/// The prefix of references to schemas, which is also their place in `/openapi.json`.
pub(crate) const PREFIX: &str = "/components/schemas";

/// The first violation of a schema: a message, and true if the value is not supported at all.
pub(crate) struct Violation {
    pub(crate) message: String,
    pub(crate) unsupported: bool,
}

impl Violation {
    fn new(message: String) -> Self {
        Self { message, unsupported: false }
    }
}

/// Checks the bounds of numbers, strings, lists and objects, and enumerated values. `name` stands
/// for the items of a list in messages.
pub(crate) fn check(
    definitions: &Map<String, Value>,
    schema: &Value,
    value: &Value,
    name: &str,
) -> Result<(), Violation> {
    let again = |schema: &Value, value: &Value| check(definitions, schema, value, name);
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let target = target.trim_start_matches('#').trim_start_matches(PREFIX);
        if let Some(schema) = definitions.get(target.trim_start_matches('/')) {
            again(schema, value)?;
        }
    }
    if let Some(kinds) = schema.get("anyOf").and_then(Value::as_array) {
        let fitting: Vec<_> = kinds.iter().filter(|kind| has_type(kind, value)).collect();
        let found = fitting.iter().map(|kind| again(kind, value));
        // Of several, any may fit; the first one's complaint is as good as another's.
        if let Some(Err(violation)) = found.reduce(Result::or) {
            return Err(violation);
        }
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array)
        && !values.contains(value)
    {
        let message = format!("{} is not supported by this server", shortened(value));
        return Err(Violation { message, unsupported: true });
    }
    match value {
        Value::Number(number) => within(schema, number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => {
            let count = text.chars().count();
            sized(schema, "minLength", "maxLength", count, "characters")
        }
        Value::Array(items) => {
            let plural = if name.ends_with('s') { "" } else { "s" };
            sized(schema, "minItems", "maxItems", items.len(), &format!("{name}{plural}"))?;
            let schema = schema.get("items").unwrap_or(&Value::Null);
            items.iter().try_for_each(|item| again(schema, item))
        }
        Value::Object(fields) => {
            sized(schema, "minProperties", "maxProperties", fields.len(), "entries")?;
            fields.iter().try_for_each(|(name, value)| {
                let own = schema.get("properties").and_then(|all| all.get(name));
                again(own.or(schema.get("additionalProperties")).unwrap_or(&Value::Null), value)
            })
        }
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

/// True unless a schema names types and the value has none of them.
fn has_type(schema: &Value, value: &Value) -> bool {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |kind: &Value| kind == name || (kind == "integer" && value.is_number());
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(fits),
        Some(kind) => fits(kind),
        None => !value.is_null(),
    }
}

fn within(schema: &Value, value: f64) -> Result<(), Violation> {
    let bound = |name| schema.get(name).and_then(Value::as_f64);
    let (low, above) = (bound("minimum"), bound("exclusiveMinimum"));
    // Bounds of 64-bit integers are those of their type, which was checked before.
    let high = bound("maximum").filter(|high| *high < 9e15);
    let fits = low.is_none_or(|low| value >= low)
        && above.is_none_or(|above| value > above)
        && high.is_none_or(|high| value <= high);
    let integer = schema.get("type").is_some_and(|kinds| {
        kinds == "integer"
            || kinds.as_array().is_some_and(|kinds| kinds.contains(&"integer".into()))
    });
    let expected = match (low.or(above), high) {
        _ if fits => return Ok(()),
        (Some(0.0), Some(high)) if integer => format!("is more than {high}"),
        (Some(_), Some(high)) if above.is_some() => {
            format!("is not above {} and at most {high}", above.unwrap_or_default())
        }
        (Some(low), Some(high)) => format!("is not between {low} and {high}"),
        (Some(low), None) => format!("is less than {low}"),
        (None, _) => format!("is more than {}", high.unwrap_or(f64::INFINITY)),
    };
    Err(Violation::new(format!("{value} {expected}")))
}

fn sized(
    schema: &Value,
    least: &str,
    most: &str,
    count: usize,
    what: &str,
) -> Result<(), Violation> {
    let bound = |name| schema.get(name).and_then(Value::as_u64);
    let (low, high) = (bound(least).unwrap_or(0), bound(most));
    let fits = count as u64 >= low && high.is_none_or(|high| count as u64 <= high);
    match high {
        _ if fits => Ok(()),
        Some(high) => Err(Violation::new(format!("{count} {what}, not {low} to {high}"))),
        None => Err(Violation::new(format!("{count} {what}, fewer than {low}"))),
    }
}

/// The beginning of a value's JSON.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(80).chain(['…']).collect() }
}
