//! `POST /v1/messages`, as Anthropic's clients write it.

mod answer;

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::chat::{ChatRequest, TemplateFields};
use super::{App, Call, chat};
use crate::problem::Problem;
use crate::request::body::{Body, Object, kinds, part};
use crate::request::common::{Common, Stop};
use crate::request::messages::{Fields as ChatFields, Role as ChatRole, finished};
use crate::request::raw::text_or;
use crate::request::structured::Structured;
use crate::request::tools::{Mode, ToolChoice as Choice, function_call, function_tool};
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

#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
enum Texts {
    One(String),
    Blocks(Vec<TextBlock>),
}

text_or!(Texts { One, Blocks }, "a string or a list of text blocks");

#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

text_or!(Content { Text, Blocks }, "a string or a list of blocks of text, tool_use or tool_result");

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

/// The fields of a request for a message that its count does not have.
#[derive(Debug, Deserialize, JsonSchema)]
struct Fields {
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

/// A request for the next message of a conversation.
#[derive(Debug, JsonSchema)]
pub(crate) struct MessagesRequest {
    #[serde(flatten)]
    asked: CountRequest,
    #[serde(flatten)]
    more: Fields,
}

/// The number of tokens that a conversation has as a prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Counted {
    input_tokens: usize,
}

impl Body for MessagesRequest {
    const FREE: &'static [&'static str] = &["messages", "model", "tools"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        let asked = CountRequest::read(object)?;
        Ok(Self { asked, more: part(object)? })
    }

    fn model(&self) -> Option<&str> {
        self.asked.model.as_deref()
    }
}

impl Body for CountRequest {
    const FREE: &'static [&'static str] = MessagesRequest::FREE;

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
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
    let body = body.into_chat()?;
    let input_tokens = chat::count(&app, Call { client, id, body }).await?;
    Ok(Json(Counted { input_tokens }).into_response())
}

/// `POST /v1/messages`
pub(crate) async fn create(
    app: Arc<App>,
    call: Call<MessagesRequest>,
) -> Result<Response, Problem> {
    let Call { client, id, body } = call;
    let body = body.into_chat()?;
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
    fn into_chat(self) -> Result<ChatRequest, Problem> {
        let Fields { max_tokens, temperature, top_p, top_k, stop_sequences, stream, metadata } =
            self.more;
        let common = Common {
            max_tokens: Some(max_tokens),
            temperature,
            top_p,
            top_k,
            stop: stop_sequences.map(Stop::Many),
            stream,
            user: metadata.and_then(|metadata| metadata.user_id),
            ..Common::default()
        };
        Ok(ChatRequest { common, ..self.asked.into_chat()? })
    }
}

impl CountRequest {
    /// The same conversation as a chat request.
    fn into_chat(self) -> Result<ChatRequest, Problem> {
        let continued = matches!(self.messages.last(), Some(Message { role: Role::Assistant, content })
            if !matches!(content, Content::Blocks(blocks) if blocks.iter().any(|b| matches!(b, Block::ToolUse { .. }))));
        let mut messages = Vec::new();
        if let Some(system) = self.system {
            messages.push(ChatFields::new(ChatRole::System, system.joined()));
        }
        self.messages.into_iter().for_each(|message| message.add_to(&mut messages));
        let tool = |Tool { name, description, input_schema }| {
            let mut function = json!({ "name": name, "parameters": input_schema });
            if let Some(description) = description {
                function["description"] = description.into();
            }
            function_tool(function)
        };
        let tools = self.tools.map(|tools| tools.into_iter().map(tool).collect());
        let (choice, single) = match self.tool_choice {
            None => (None, None),
            Some(ToolChoice::None) => (Some(Choice::Mode(Mode::None)), None),
            Some(ToolChoice::Auto { disable_parallel_tool_use: single }) => {
                (Some(Choice::Mode(Mode::Auto)), single)
            }
            Some(ToolChoice::Any { disable_parallel_tool_use: single }) => {
                (Some(Choice::Mode(Mode::Required)), single)
            }
            Some(ToolChoice::Tool { name, disable_parallel_tool_use: single }) => {
                (Some(Choice::function(name)), single)
            }
        };
        let chat = chat::Fields {
            messages: finished(messages)?,
            continue_final_message: Some(continued),
            parallel_tool_calls: choice.is_some().then_some(!single.unwrap_or(false)),
            tool_choice: choice,
            ..chat::Fields::default()
        };
        let template = TemplateFields { tools, ..TemplateFields::default() };
        Ok(ChatRequest {
            common: Common::default(),
            structured: Structured::default(),
            chat,
            template,
        })
    }
}

impl Message {
    /// Adds the message to those of a chat request; answers of tools are messages of their own.
    fn add_to(self, messages: &mut Vec<ChatFields>) {
        let role = match self.role {
            Role::User => ChatRole::User,
            Role::Assistant => ChatRole::Assistant,
        };
        let blocks = match self.content {
            Content::Text(text) => vec![Block::Text { text }],
            Content::Blocks(blocks) => blocks,
        };
        let (mut text, mut calls, mut results) = (None::<String>, Vec::new(), false);
        for block in blocks {
            match block {
                Block::Text { text: more } => text.get_or_insert_default().push_str(&more),
                Block::ToolUse { id, name, input } => {
                    calls.push(function_call(id, name, input.into()))
                }
                Block::ToolResult { tool_use_id, content } => {
                    results = true;
                    let content = content.map(Texts::joined).unwrap_or_default();
                    let mut message = ChatFields::new(ChatRole::Tool, content);
                    message.tool_call_id = Some(tool_use_id);
                    messages.push(message);
                }
                Block::Thinking {} | Block::RedactedThinking {} => {}
            }
        }
        if text.is_none() && calls.is_empty() && results {
            return;
        }
        let mut message = ChatFields::new(role, text.unwrap_or_default());
        message.tool_calls = Some(calls);
        messages.push(message);
    }
}
