//! The text of calls.

use serde_json::{Deserializer, Map, Value};

use super::python;
use super::{Tool, ToolCall};

/// `{"name": .., "arguments": {..}}`; the arguments may also be called parameters, or be the text of
/// an object.
fn object(value: &Value) -> Option<ToolCall> {
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match value.get("arguments").or(value.get("parameters")) {
        Some(Value::String(text)) => serde_json::from_str::<Map<_, _>>(text).ok()?.into(),
        Some(Value::Null) | None => Value::Object(Map::new()),
        Some(arguments) => arguments.clone(),
    };
    arguments.is_object().then(|| ToolCall { name, arguments: arguments.to_string() })
}

fn known(call: &ToolCall, tools: &[Tool]) -> bool {
    tools.iter().any(|tool| tool.name == call.name)
}

/// The text between the marks of a call.
pub(super) fn tagged(text: &str, tools: &[Tool]) -> Option<ToolCall> {
    let text = text.trim();
    if text.starts_with('{') {
        return object(&serde_json::from_str(text).ok()?);
    }
    let (name, mut rest) = text.strip_prefix("<function=")?.split_once('>')?;
    let tool = tools.iter().find(|tool| tool.name == name);
    let mut arguments = Map::new();
    while let Some((_, parameter)) = rest.split_once("<parameter=") {
        let (key, value) = parameter.split_once('>')?;
        let (value, after) = value.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let schema = tool.map_or(&Value::Null, |tool| &tool.parameters["properties"][key]);
        arguments.insert(key.to_owned(), typed(value, schema));
        rest = after;
    }
    Some(ToolCall { name: name.to_owned(), arguments: Value::Object(arguments).to_string() })
}

/// A value that is written without quotes.
fn typed(text: &str, schema: &Value) -> Value {
    let own = || Value::String(text.to_owned());
    if schema["type"] == "string" {
        return own();
    }
    serde_json::from_str(text).unwrap_or_else(|_| own())
}

/// Calls with nothing but `;` and blanks between them.
pub(super) fn json_calls(text: &str, tools: &[Tool]) -> Option<Vec<ToolCall>> {
    let (mut calls, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        let call = object(&values.next()?.ok()?).filter(|call| known(call, tools))?;
        calls.push(call);
        rest = rest[values.byte_offset()..].trim_start_matches([';', ' ', '\n', '\r', '\t']);
    }
    Some(calls)
}

/// The text after the first `[TOOL_CALLS]`.
pub(super) fn mistral(text: &str) -> Option<Vec<ToolCall>> {
    let text = text.trim();
    if text.starts_with('[') && !text.starts_with("[ARGS]") {
        let all: Vec<Value> = serde_json::from_str(text).ok()?;
        return all.iter().map(object).collect();
    }
    let call = |text: &str| {
        let (name, arguments) = text.split_once("[ARGS]")?;
        let arguments: Map<String, Value> = serde_json::from_str(arguments.trim()).ok()?;
        let arguments = Value::Object(arguments).to_string();
        Some(ToolCall { name: name.trim().to_owned(), arguments })
    };
    text.split("[TOOL_CALLS]").map(call).collect()
}

/// `[name(argument=value), ..]`
pub(super) fn python_calls(text: &str, tools: &[Tool]) -> Option<Vec<ToolCall>> {
    let calls = python::calls(text.trim())?;
    calls.iter().all(|call| known(call, tools)).then_some(calls)
}
