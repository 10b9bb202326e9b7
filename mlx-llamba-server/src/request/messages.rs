//! The messages of a conversation, as OpenAI's clients write them.

use std::collections::BTreeMap;

use mlx_llamba::Message;
use mlx_llamba::template::Json;
use schemars::JsonSchema;
use serde::de::{Error, IgnoredAny, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::raw::text_or;
use crate::problem::Problem;

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
#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

text_or!(Content { Text, Parts }, "a string or a list of text parts");

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
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
pub(crate) struct Fields {
    #[serde(deserialize_with = "named")]
    pub(crate) role: Role,
    /// May be missing from a message of the model or of a tool.
    content: Option<Content>,
    name: Option<String>,
    pub(crate) tool_calls: Option<Vec<Map<String, Value>>>,
    pub(crate) tool_call_id: Option<String>,
    /// Not supported.
    #[serde(rename = "audio", default, deserialize_with = "nothing")]
    _audio: Option<()>,
    /// Not supported.
    #[serde(rename = "function_call", default, deserialize_with = "nothing")]
    _function_call: Option<()>,
    #[serde(flatten)]
    #[schemars(with = "Map<String, Value>")]
    others: BTreeMap<String, Option<Json>>,
}

/// Reads the name of a variant: serde takes objects for them too.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(given: D) -> Result<T, D::Error> {
    T::deserialize(String::deserialize(given)?.into_deserializer())
}

fn nothing<'de, D: Deserializer<'de>>(given: D) -> Result<Option<()>, D::Error> {
    match Option::<IgnoredAny>::deserialize(given)? {
        Some(_) => Err(D::Error::custom("not supported by this server")),
        None => Ok(None),
    }
}

/// One message.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(transparent)]
pub(crate) struct ChatMessage(#[schemars(with = "Fields")] pub(crate) Message);

impl<'de> Deserialize<'de> for ChatMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Errors belong to the message as a whole, and say where in it they are.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let mut text = serde_json::Deserializer::from_str(text);
        let fields: Fields =
            serde_path_to_error::deserialize(&mut text).map_err(D::Error::custom)?;
        fields.message().map(Self).map_err(D::Error::custom)
    }
}

impl Fields {
    pub(crate) fn new(role: Role, text: String) -> Self {
        Self {
            role,
            content: Some(Content::Text(text)),
            name: None,
            tool_calls: None,
            tool_call_id: None,
            _audio: None,
            _function_call: None,
            others: BTreeMap::new(),
        }
    }

    /// The message for the template, which sees every field that has a value.
    pub(crate) fn message(self) -> Result<Message, String> {
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
        let mut message = Message::new(role, text);
        message.fields =
            self.others.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        for (name, value) in named {
            let Some(value) = value else { continue };
            let value: Json = serde_json::from_value(value).map_err(|e| format!("{name}: {e}"))?;
            message.fields.insert(name.to_owned(), value);
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

/// The messages of a request that was made of another one.
///
/// # Errors
/// 400
pub(crate) fn finished(given: Vec<Fields>) -> Result<Vec<ChatMessage>, Problem> {
    let message = |fields: Fields| fields.message().map(ChatMessage);
    let messages = given.into_iter().map(message).collect::<Result<_, _>>();
    messages.map_err(|error| Problem::parameter("messages", error))
}

/// The messages for the template.
pub(crate) fn messages(given: Vec<ChatMessage>) -> Vec<Message> {
    given.into_iter().map(|message| message.0).collect()
}
