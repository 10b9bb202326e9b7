//! The messages of a conversation, as OpenAI's clients write them.

use std::collections::BTreeMap;

use mlx_llamba::Message;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::problem::Problem;

/// A piece of a message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Part {
    Text { text: String },
}

/// What is said.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of text parts")]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// One message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ChatMessage {
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
        tool_calls: Option<Vec<BTreeMap<String, Value>>>,
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
    if given.is_empty() {
        return Err(Problem::parameter("messages", "at least one message"));
    }
    given.into_iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(i: usize, given: ChatMessage) -> Result<Message, Problem> {
    let mut fields = Vec::new();
    let (role, content) = match given {
        ChatMessage::System { content, name } | ChatMessage::Developer { content, name } => {
            fields.push(("name", name.map(Value::from)));
            ("system", Some(content))
        }
        ChatMessage::User { content, name } => {
            fields.push(("name", name.map(Value::from)));
            ("user", Some(content))
        }
        ChatMessage::Assistant { content, name, tool_calls, .. } => {
            let object = |call: BTreeMap<String, Value>| call.into_iter().collect::<Value>();
            let calls = tool_calls.map(|calls| calls.into_iter().map(object).collect());
            fields.push(("name", name.map(Value::from)));
            fields.push(("tool_calls", calls));
            ("assistant", content)
        }
        ChatMessage::Tool { content, tool_call_id } => {
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
