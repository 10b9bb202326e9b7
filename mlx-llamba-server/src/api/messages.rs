//! `POST /v1/messages`, as Anthropic's clients write it.

mod answer;

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{App, Call, chat};
use crate::api::chat::ChatRequest;
use crate::problem::Problem;
use crate::request::body::{Body, kinds, part};
use answer::Messages;
pub(crate) use answer::{MessageAnswer, MessageEvent};

/// A block of a message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    /// A call of a tool, by the model.
    ToolUse {
        id: String,
        name: String,
        input: Map<String, Value>,
    },
    /// The answer of a tool.
    ToolResult {
        tool_use_id: String,
        content: Option<Texts>,
    },
    /// Left out.
    Thinking {},
    /// Left out.
    RedactedThinking {},
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TextBlock {
    Text { text: String },
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of text blocks")]
enum Texts {
    One(String),
    Blocks(Vec<TextBlock>),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a string or a list of blocks of text, tool_use or tool_result"
)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "InputMessage")]
struct Message {
    role: Role,
    content: Content,
}

/// A tool that the model can use.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "InputTool")]
struct Tool {
    name: String,
    description: Option<String>,
    input_schema: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[schemars(rename = "InputToolChoice")]
enum ToolChoice {
    None,
    Auto { disable_parallel_tool_use: Option<bool> },
    Any { disable_parallel_tool_use: Option<bool> },
    Tool { name: String, disable_parallel_tool_use: Option<bool> },
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
struct Metadata {
    user_id: Option<String>,
}

/// A conversation. If the last message is the model's own, it is continued.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CountRequest {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    #[schemars(length(min = 1))]
    messages: Vec<Message>,
    system: Option<Texts>,
    #[schemars(length(max = 128))]
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
}

/// A request for the next message of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MessagesRequest {
    #[serde(flatten)]
    asked: CountRequest,
    /// The maximum number of tokens. More than the server allows is as many as it allows.
    #[schemars(range(min = 1))]
    max_tokens: i64,
    #[schemars(range(min = 0.0, max = 2.0))]
    temperature: Option<f32>,
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: Option<f32>,
    /// -1 and 0 mean no limit.
    #[schemars(range(min = -1))]
    top_k: Option<i64>,
    /// The text ends before any of these.
    #[schemars(length(max = 16), inner(length(min = 1, max = 1024)))]
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    metadata: Option<Metadata>,
}

/// The number of tokens that a conversation has as a prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Counted {
    input_tokens: usize,
}

impl Body for MessagesRequest {
    const FREE: &'static [&'static str] = &["messages", "model", "tools"];

    fn read(object: &Value) -> Result<Self, Problem> {
        kinds(object, &["input", "input_schema"])?;
        part(object)
    }

    fn model(&self) -> Option<&str> {
        self.asked.model.as_deref()
    }
}

impl Body for CountRequest {
    const FREE: &'static [&'static str] = MessagesRequest::FREE;

    fn read(object: &Value) -> Result<Self, Problem> {
        kinds(object, &["input", "input_schema"])?;
        part(object)
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// `POST /v1/messages/count_tokens`
pub(crate) async fn count(app: Arc<App>, call: Call<CountRequest>) -> Result<Response, Problem> {
    let Call { client, id, body } = call;
    let body = ChatRequest::read(&body.into_chat())?;
    let input_tokens = chat::count(&app, Call { client, id, body }).await?;
    Ok(Json(Counted { input_tokens }).into_response())
}

/// `POST /v1/messages`
pub(crate) async fn create(
    app: Arc<App>,
    call: Call<MessagesRequest>,
) -> Result<Response, Problem> {
    let Call { client, id, body } = call;
    let body = ChatRequest::read(&body.into_chat())?;
    chat::respond::<Messages>(app, Call { client, id, body }, None).await
}

impl Texts {
    fn joined(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Blocks(blocks) => {
                blocks.into_iter().map(|TextBlock::Text { text }| text).collect()
            }
        }
    }
}

impl MessagesRequest {
    /// The same request as a chat request.
    fn into_chat(self) -> Value {
        let mut chat = self.asked.into_chat();
        for (name, value) in [
            ("max_tokens", json!(self.max_tokens)),
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
            ("stop", json!(self.stop_sequences)),
            ("stream", json!(self.stream)),
            ("user", json!(self.metadata.unwrap_or_default().user_id)),
        ] {
            chat[name] = value;
        }
        chat
    }
}

impl CountRequest {
    /// The same conversation as a chat request.
    fn into_chat(self) -> Value {
        let continued = matches!(self.messages.last(), Some(Message { role: Role::Assistant, content })
            if !matches!(content, Content::Blocks(blocks) if blocks.iter().any(|b| matches!(b, Block::ToolUse { .. }))));
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(json!({ "role": "system", "content": system.joined() }));
        }
        self.messages.into_iter().for_each(|message| message.add_to(&mut messages));
        let mut chat = json!({ "messages": messages, "continue_final_message": continued });
        if let Some(tools) = self.tools {
            let tool = |Tool { name, description, input_schema }| {
                let mut function = json!({ "name": name, "parameters": input_schema });
                if let Some(description) = description {
                    function["description"] = description.into();
                }
                json!({ "type": "function", "function": function })
            };
            chat["tools"] = tools.into_iter().map(tool).collect();
        }
        let (choice, single) = match self.tool_choice {
            None => return chat,
            Some(ToolChoice::None) => (json!("none"), None),
            Some(ToolChoice::Auto { disable_parallel_tool_use: single }) => (json!("auto"), single),
            Some(ToolChoice::Any { disable_parallel_tool_use: single }) => {
                (json!("required"), single)
            }
            Some(ToolChoice::Tool { name, disable_parallel_tool_use: single }) => {
                (json!({ "type": "function", "function": { "name": name } }), single)
            }
        };
        chat["tool_choice"] = choice;
        chat["parallel_tool_calls"] = (!single.unwrap_or(false)).into();
        chat
    }
}

impl Message {
    /// Adds the message to those of a chat request; answers of tools are messages of their own.
    fn add_to(self, messages: &mut Vec<Value>) {
        let role = match self.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let blocks = match self.content {
            Content::Text(text) => vec![Block::Text { text }],
            Content::Blocks(blocks) => blocks,
        };
        let (mut text, mut calls, mut results) = (None::<String>, Vec::new(), false);
        for block in blocks {
            match block {
                Block::Text { text: more } => text.get_or_insert_default().push_str(&more),
                Block::ToolUse { id, name, input } => calls.push(json!({
                    "id": id, "type": "function", "function": { "name": name, "arguments": input },
                })),
                Block::ToolResult { tool_use_id, content } => {
                    results = true;
                    let content = content.map(Texts::joined).unwrap_or_default();
                    messages.push(json!({
                        "role": "tool", "tool_call_id": tool_use_id, "content": content,
                    }));
                }
                Block::Thinking {} | Block::RedactedThinking {} => {}
            }
        }
        if text.is_none() && calls.is_empty() && results {
            return;
        }
        let mut message = json!({ "role": role, "content": text.unwrap_or_default() });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        messages.push(message);
    }
}
