//! The messages of a conversation, as OpenAI's clients write them.

use mlx_llamba::Message;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::problem::Problem;

/// A piece of a message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Part {
    Text { text: String },
}

/// What is said.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of text parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// Fields of the model's own messages that say nothing. Clients send them back as they are.
const EMPTY: [&str; 4] = ["annotations", "audio", "function_call", "refusal"];

/// One message.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(transparent)]
pub(crate) struct ChatMessage(Spoken);

impl<'de> Deserialize<'de> for ChatMessage {
    /// As the derived one of what it holds, which alone takes numbers for the names of kinds,
    /// and empty objects for `null`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.get("role").is_some_and(|role| !role.is_string()) {
            return Err(D::Error::custom("role: expected a string"));
        }
        let said = |name: &&&str| value.get(name).is_some_and(|value| !value.is_null());
        if let Some(name) = EMPTY.iter().find(said) {
            return Err(D::Error::custom(format!("{name}: expected null")));
        }
        let parts = value.get("content").and_then(Value::as_array).into_iter().flatten();
        if parts.filter_map(|part| part.get("type")).any(|kind| !kind.is_string()) {
            return Err(D::Error::custom("content: type: expected a string"));
        }
        Spoken::deserialize(value).map(Self).map_err(D::Error::custom)
    }
}

/// What a message can be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
#[schemars(rename = "Message")]
enum Spoken {
    System {
        content: Content,
        name: Option<String>,
    },
    /// Another name of `system`.
    Developer {
        content: Content,
        name: Option<String>,
    },
    User {
        content: Content,
        name: Option<String>,
    },
    Assistant {
        content: Option<Content>,
        name: Option<String>,
        /// Handed to the chat template.
        tool_calls: Option<Vec<Map<String, Value>>>,
        // Clients send the model's messages back as they are; these say nothing.
        #[serde(rename = "refusal")]
        _refusal: Option<()>,
        #[serde(rename = "annotations")]
        _annotations: Option<()>,
        #[serde(rename = "audio")]
        _audio: Option<()>,
        #[serde(rename = "function_call")]
        _function_call: Option<()>,
    },
    Tool {
        content: Content,
        tool_call_id: Option<String>,
    },
}

/// The messages for the template.
pub(crate) fn messages(given: Vec<ChatMessage>) -> Result<Vec<Message>, Problem> {
    given.into_iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(i: usize, ChatMessage(given): ChatMessage) -> Result<Message, Problem> {
    let mut fields = Vec::new();
    let (role, content) = match given {
        Spoken::System { content, name } | Spoken::Developer { content, name } => {
            fields.push(("name", name.map(Value::from)));
            ("system", Some(content))
        }
        Spoken::User { content, name } => {
            fields.push(("name", name.map(Value::from)));
            ("user", Some(content))
        }
        Spoken::Assistant { content, name, tool_calls, .. } => {
            let calls = tool_calls.map(|calls| calls.into_iter().map(Value::Object).collect());
            fields.push(("name", name.map(Value::from)));
            fields.push(("tool_calls", calls));
            ("assistant", content)
        }
        Spoken::Tool { content, tool_call_id } => {
            fields.push(("tool_call_id", tool_call_id.map(Value::from)));
            ("tool", Some(content))
        }
    };
    let text = match content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => parts.into_iter().map(|Part::Text { text }| text).collect(),
        None => String::new(),
    };
    let mut message = Message::new(role, text);
    for (name, value) in fields {
        if let Some(value) = value {
            let bad = |e| Problem::parameter(format!("messages[{i}].{name}"), e);
            let value = serde_json::from_value(value).map_err(bad)?;
            message.fields.insert(name.to_owned(), value);
        }
    }
    Ok(message)
}
