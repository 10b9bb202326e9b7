//! The messages of a conversation, as OpenAI's clients write them.

use mlx_llamba::Message;
use mlx_llamba::template::Json;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A part of a message. Fields beside its text, such as `cache_control`, change nothing.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    /// Those of `/v1/responses` are the same.
    #[serde(alias = "input_text", alias = "output_text")]
    Text {
        text: String,
    },
    Refusal {
        refusal: String,
    },
}

/// The text of a message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "content: expected a string or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    /// Another name of `system`.
    Developer,
    User,
    Assistant,
    Tool,
}

/// One message. Fields that are not named here go to the chat template too.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "Message", extend("anyOf" = [
    { "required": ["content"], "properties": { "content": { "not": { "type": "null" } } } },
    { "properties": { "role": { "enum": ["assistant", "tool"] } } },
]))]
struct Fields {
    role: Role,
    /// May be missing from a message of the model or of a tool.
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Vec<Map<String, Value>>>,
    tool_call_id: Option<String>,
    /// Not supported.
    #[serde(rename = "audio")]
    _audio: Option<()>,
    /// Not supported.
    #[serde(rename = "function_call")]
    _function_call: Option<()>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// One message.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(transparent)]
pub(crate) struct ChatMessage(#[schemars(with = "Fields")] Message);

impl<'de> Deserialize<'de> for ChatMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl ChatMessage {
    fn new(value: Value) -> Result<Self, String> {
        // Serde takes numbers for the names of kinds, and empty objects for `null`.
        if value.get("role").is_some_and(|role| !role.is_string()) {
            return Err("role: expected a string".to_owned());
        }
        let parts = value.get("content").and_then(Value::as_array).into_iter().flatten();
        if parts.filter_map(|part| part.get("type")).any(|kind| !kind.is_string()) {
            return Err("content: type: expected a string".to_owned());
        }
        for name in ["audio", "function_call"] {
            if value.get(name).is_some_and(|value| !value.is_null()) {
                return Err(format!("{name} is not supported by this server"));
            }
        }
        Fields::deserialize(value).map_err(|error| error.to_string())?.message().map(Self)
    }
}

impl Fields {
    /// The message for the template, which sees every field that has a value.
    fn message(self) -> Result<Message, String> {
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let part = |part| match part {
            Part::Text { text } | Part::Refusal { refusal: text } => text,
        };
        let text = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(part).collect(),
            None if matches!(self.role, Role::Assistant | Role::Tool) => String::new(),
            None => return Err(format!("content: a message of the {role} needs one")),
        };
        let mut calls = self.tool_calls.filter(|calls| !calls.is_empty());
        calls.iter_mut().flatten().for_each(objects);
        let named = [
            ("name", self.name.map(Value::from)),
            ("tool_calls", calls.map(|calls| calls.into_iter().map(Value::Object).collect())),
            ("tool_call_id", self.tool_call_id.map(Value::from)),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let others = self.others.into_iter().filter(|(_, value)| !value.is_null());
        let mut message = Message::new(role, text);
        for (name, value) in named.chain(others) {
            let value: Json = serde_json::from_value(value).map_err(|e| format!("{name}: {e}"))?;
            message.fields.insert(name, value);
        }
        Ok(message)
    }
}

/// Makes an object of the arguments of a call, which clients send as its text: templates write them
/// as JSON themselves.
fn objects(call: &mut Map<String, Value>) {
    let function = call.get_mut("function").and_then(Value::as_object_mut);
    let Some(arguments) = function.and_then(|function| function.get_mut("arguments")) else {
        return;
    };
    if let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str(text).ok()) {
        *arguments = Value::Object(object);
    } else if arguments.as_str().is_some_and(|text| text.trim().is_empty()) {
        *arguments = Value::Object(Map::new());
    }
}

/// The messages for the template.
pub(crate) fn messages(given: Vec<ChatMessage>) -> Vec<Message> {
    given.into_iter().map(|message| message.0).collect()
}
