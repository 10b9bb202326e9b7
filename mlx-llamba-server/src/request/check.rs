//! Checks of a request against its published schema.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::raw::each;

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

/// Checks the bounds of numbers, strings, lists and objects, and enumerated values, in the text of a
/// value: what is too long is never made. `name` stands for the items of a list in messages.
pub(crate) fn check(
    definitions: &Map<String, Value>,
    schema: &Value,
    value: &RawValue,
    name: &str,
) -> Result<(), Violation> {
    let (text, kind) = (value.get(), kind(value));
    let again = |schema: &Value, value: &RawValue| check(definitions, schema, value, name);
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let target = target.trim_start_matches('#').trim_start_matches(PREFIX);
        if let Some(schema) = definitions.get(target.trim_start_matches('/')) {
            again(schema, value)?;
        }
    }
    if let Some(kinds) = schema.get("anyOf").and_then(Value::as_array) {
        let fitting = kinds.iter().filter(|schema| has_type(schema, kind));
        let found = fitting.map(|schema| again(schema, value));
        // Of several, any may fit; the first one's complaint is as good as another's.
        if let Some(Err(violation)) = found.reduce(Result::or) {
            return Err(violation);
        }
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array)
        && !is_among(values, text)
    {
        let message = format!("{} is not supported by this server", shortened(text));
        return Err(Violation { message, unsupported: true });
    }
    match kind {
        "number" => within(schema, text.parse().unwrap_or(f64::NAN)),
        "string" if ["minLength", "maxLength"].iter().any(|bound| schema.get(bound).is_some()) => {
            let count = serde_json::from_str(text).map_or(0, |text: String| text.chars().count());
            sized(schema, "minLength", "maxLength", count, "characters")
        }
        "array" => {
            let items = schema.get("items");
            let found = all(value, most(schema, "maxItems"), |_, item| {
                items.map_or(Ok(()), |schema| again(schema, item))
            });
            let plural = if name.ends_with('s') { "" } else { "s" };
            sized(schema, "minItems", "maxItems", found.0, &format!("{name}{plural}"))?;
            found.1
        }
        "object" => {
            let found = all(value, most(schema, "maxProperties"), |name, value| {
                let own = schema.get("properties").and_then(|all| all.get(name));
                let schema = own.or(schema.get("additionalProperties"));
                schema.map_or(Ok(()), |schema| again(schema, value))
            });
            sized(schema, "minProperties", "maxProperties", found.0, "entries")?;
            found.1
        }
        _ => Ok(()),
    }
}

/// Counts the elements of a list or an object, and checks the first `most` of them.
fn all(
    value: &RawValue,
    most: u64,
    check: impl Fn(&str, &RawValue) -> Result<(), Violation>,
) -> (usize, Result<(), Violation>) {
    let (mut count, mut found) = (0, Ok(()));
    each(value.get(), |name, value| {
        count += 1;
        if found.is_ok() && count as u64 <= most {
            found = check(name, value);
        }
    });
    (count, found)
}

fn most(schema: &Value, name: &str) -> u64 {
    schema.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

/// JSON Schema's name of a value's type.
fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "boolean",
        Some(b'"') => "string",
        Some(b'[') => "array",
        Some(b'{') => "object",
        _ => "number",
    }
}

/// True if a text is the JSON of one of these values, all of which are short.
fn is_among(values: &[Value], text: &str) -> bool {
    let value = Some(text).filter(|text| text.len() < 1024);
    value
        .and_then(|text| serde_json::from_str(text).ok())
        .is_some_and(|value| values.contains(&value))
}

/// True unless a schema names types and the value's is none of them.
fn has_type(schema: &Value, name: &str) -> bool {
    let fits = |kind: &Value| kind == name || (kind == "integer" && name == "number");
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(fits),
        Some(kind) => fits(kind),
        None => name != "null",
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
fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let shown: String = chars.by_ref().take(80).collect();
    if chars.next().is_none() { shown } else { shown + "…" }
}
