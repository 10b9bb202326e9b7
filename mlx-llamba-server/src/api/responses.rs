//! `POST /v1/responses`, OpenAI's newer form of chat completions.

mod answer;

use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::chat::{ChatRequest, TemplateFields};
use super::{App, Call, chat};
use crate::kept::Record;
use crate::problem::Problem;
use crate::request::body::{Body, Object, kinds, part};
use crate::request::common::Common;
use crate::request::cost;
use crate::request::messages::{ChatMessage, Fields as ChatFields, Role as ChatRole, finished};
use crate::request::raw::text_or;
use crate::request::structured::Structured;
use crate::request::tools::{ToolChoice, function_call, function_tool};
use answer::Responses;
pub(crate) use answer::{ResponseAnswer, ResponseEvent};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "InputPart")]
enum Part {
    InputText { text: String },
    OutputText { text: String },
    Refusal { refusal: String },
}

#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "InputContent")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

text_or!(Content { Text, Parts }, "a string or a list of text parts");

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "InputRole")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
}

/// An item that has a type other than `message`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Typed {
    /// A call of a tool, by the model.
    FunctionCall { call_id: String, name: String, arguments: String },
    /// The answer of a tool.
    FunctionCallOutput { call_id: String, output: Content },
    /// Left out.
    Reasoning {},
}

/// An item of the conversation.
#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
enum Item {
    Typed(Typed),
    Message { role: Role, content: Content },
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Message {
            role: Role,
            content: Content,
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        if let Ok(typed) = serde_json::from_str(text) {
            return Ok(Self::Typed(typed));
        }
        let message = serde_json::from_str(text)
            .map(|Message { role, content }| Self::Message { role, content });
        let expected = "expected a message, a function_call or a function_call_output";
        message.map_err(|_| D::Error::custom(expected))
    }
}

#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(#[schemars(length(min = 1))] Vec<Item>),
}

text_or!(Input { Text, Items }, "a string or a list of items");

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ResponseToolKind")]
enum Kind {
    Function,
}

/// A function that the model can call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseTool")]
struct Tool {
    #[serde(rename = "type")]
    _kind: Kind,
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
}

/// The choice among the tools.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected none, auto, required or a function")]
enum Choice {
    Function {
        #[serde(rename = "type")]
        _kind: Kind,
        name: String,
    },
    AsInChats(ToolChoice),
}

/// The format of the text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schemars(rename = "ResponseTextFormat")]
enum Format {
    Text {},
    JsonObject {},
    JsonSchema { schema: Map<String, Value> },
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseText")]
struct TextOptions {
    format: Option<Format>,
}

/// A request for the next message of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ResponseRequest {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    input: Input,
    /// A system message.
    instructions: Option<String>,
    /// The maximum number of tokens. More than the server allows is as many as it allows.
    #[schemars(range(min = 1))]
    max_output_tokens: Option<i64>,
    #[schemars(range(min = 0.0, max = 2.0))]
    temperature: Option<f32>,
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: Option<f32>,
    stream: Option<bool>,
    #[schemars(length(max = 128))]
    tools: Option<Vec<Tool>>,
    /// `none`, `auto`, `required`, or a function by its name.
    #[schemars(with = "Option<Value>")]
    tool_choice: Option<Choice>,
    parallel_tool_calls: Option<bool>,
    text: Option<TextOptions>,
    user: Option<String>,
    /// The id of the response that this one continues: its conversation comes before `input`. The
    /// last conversations are kept in memory, unless `store` is false.
    previous_response_id: Option<String>,
    store: Option<bool>,
}

impl Body for ResponseRequest {
    const FREE: &'static [&'static str] = &["input", "model", "text", "tool_choice", "tools"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        kinds(object, &["parameters", "schema"])?;
        let request: Self = part(object)?;
        if matches!(&request.input, Input::Items(items) if items.is_empty()) {
            return Err(Problem::parameter("input", "at least one item"));
        }
        Ok(request)
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// `POST /v1/responses`
pub(crate) async fn create(
    app: Arc<App>,
    call: Call<ResponseRequest>,
) -> Result<Response, Problem> {
    let Call { client, id, mut body } = call;
    let before = match body.previous_response_id.take().filter(|id| !id.is_empty()) {
        None => Vec::new(),
        Some(previous) => {
            let kept = app.responses.get(app.owner(&client), &previous).ok_or_else(|| {
                let message = "no response of this id is kept; send the earlier items again";
                let problem = Problem::parameter("previous_response_id", message);
                problem.code("previous_response_not_found")
            })?;
            // As if they had been sent again.
            client.memory.add(cost::memory(kept.as_bytes()))?;
            serde_json::from_str(&kept).map_err(|error| Problem::failure(&error))?
        }
    };
    let keep = body.store.unwrap_or(true);
    // Instructions are those of this request, and no part of the conversation.
    let instructions = body.instructions.take();
    let mut body = body.into_chat(before)?;
    let messages = &mut body.chat.messages;
    let record = keep.then(|| Record::new(app.owner(&client), &client.name, messages));
    let record = record.transpose().map_err(|error| Problem::failure(&error))?;
    if let Some(instructions) = instructions {
        let system = finished(vec![ChatFields::new(ChatRole::System, instructions)])?;
        messages.splice(..0, system);
    }
    chat::respond::<Responses>(app, Call { client, id, body }, record).await
}

impl Content {
    fn joined(self) -> String {
        let text = |part| match part {
            Part::InputText { text }
            | Part::OutputText { text }
            | Part::Refusal { refusal: text } => text,
        };
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(text).collect(),
        }
    }
}

impl ResponseRequest {
    /// The same request as a chat request, without its instructions, after these messages.
    fn into_chat(self, mut messages: Vec<ChatMessage>) -> Result<ChatRequest, Problem> {
        let items = match self.input {
            Input::Text(text) => {
                vec![Item::Message { role: Role::User, content: Content::Text(text) }]
            }
            Input::Items(items) => items,
        };
        let mut more = Vec::new();
        items.into_iter().for_each(|item| item.add_to(&mut more));
        messages.extend(finished(more)?);
        let common = Common {
            max_tokens: self.max_output_tokens,
            user: self.user,
            temperature: self.temperature,
            top_p: self.top_p,
            stream: self.stream,
            ..Common::default()
        };
        let tool = |Tool { name, description, parameters, .. }| {
            let mut function = json!({ "name": name });
            if let Some(description) = description {
                function["description"] = description.into();
            }
            if let Some(parameters) = parameters {
                function["parameters"] = parameters.into();
            }
            function_tool(function)
        };
        let tools = self.tools.map(|tools| tools.into_iter().map(tool).collect());
        let tool_choice = self.tool_choice.map(|choice| match choice {
            Choice::Function { name, .. } => ToolChoice::function(name),
            Choice::AsInChats(choice) => choice,
        });
        let structured = match self.text.and_then(|text| text.format) {
            None | Some(Format::Text {}) => Structured::default(),
            Some(Format::JsonObject {}) => Structured::json(None),
            Some(Format::JsonSchema { schema }) => Structured::json(Some(schema)),
        };
        let parallel_tool_calls = self.parallel_tool_calls;
        let chat =
            chat::Fields { messages, tool_choice, parallel_tool_calls, ..chat::Fields::default() };
        let template = TemplateFields { tools, ..TemplateFields::default() };
        Ok(ChatRequest { common, structured, chat, template })
    }
}

impl Item {
    /// Adds the item to the messages of a chat request. Calls belong to the message before them.
    fn add_to(self, messages: &mut Vec<ChatFields>) {
        match self {
            Self::Typed(Typed::Reasoning {}) => {}
            Self::Typed(Typed::FunctionCall { call_id, name, arguments }) => {
                if messages.last().is_none_or(|message| message.role != ChatRole::Assistant) {
                    messages.push(ChatFields::new(ChatRole::Assistant, String::new()));
                }
                if let Some(message) = messages.last_mut() {
                    let call = function_call(call_id, name, arguments.into());
                    message.tool_calls.get_or_insert_default().push(call);
                }
            }
            Self::Typed(Typed::FunctionCallOutput { call_id, output }) => {
                let mut message = ChatFields::new(ChatRole::Tool, output.joined());
                message.tool_call_id = Some(call_id);
                messages.push(message);
            }
            Self::Message { role, content } => {
                let role = match role {
                    Role::System | Role::Developer => ChatRole::System,
                    Role::User => ChatRole::User,
                    Role::Assistant => ChatRole::Assistant,
                };
                messages.push(ChatFields::new(role, content.joined()));
            }
        }
    }
}
