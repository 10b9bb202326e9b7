//! `POST /v1/responses`, OpenAI's newer form of chat completions.

mod answer;

use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{App, Call, chat};
use crate::api::chat::ChatRequest;
use crate::kept::Record;
use crate::problem::Problem;
use crate::request::body::{Body, kinds, part};
use crate::request::cost;
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

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of text parts")]
#[schemars(rename = "InputContent")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a message, a function_call or a function_call_output")]
enum Item {
    Typed(Typed),
    Message { role: Role, content: Content },
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of items")]
enum Input {
    Text(String),
    Items(#[schemars(length(min = 1))] Vec<Item>),
}

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
    tool_choice: Option<Value>,
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

    fn read(object: &Value) -> Result<Self, Problem> {
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
    // Without keys, nobody can be told from others.
    let owner = app.owner(&client).to_owned();
    let before = match body.previous_response_id.take().filter(|id| !id.is_empty()) {
        None => Vec::new(),
        Some(previous) => {
            let kept = app.responses.get(&owner, &previous).ok_or_else(|| {
                let message = "no response of this id is kept; send the earlier items again";
                let problem = Problem::parameter("previous_response_id", message);
                problem.code("previous_response_not_found")
            })?;
            // As if they had been sent again.
            client.memory.add(cost::memory(kept.as_bytes()))?;
            serde_json::from_str::<Vec<Value>>(&kept).map_err(|error| Problem::failure(&error))?
        }
    };
    let keep = body.store.unwrap_or(true);
    // Instructions are those of this request, and no part of the conversation.
    let instructed = usize::from(body.instructions.is_some());
    let mut chat = body.into_chat();
    let Some(messages) = chat["messages"].as_array_mut() else {
        return Err(Problem::parameter("input", "expected a conversation"));
    };
    messages.splice(instructed..instructed, before);
    let record = keep.then(|| Record::new(owner, &messages[instructed..]));
    let body = ChatRequest::read(&chat)?;
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
    /// The same request as a chat request.
    fn into_chat(self) -> Value {
        let mut messages: Vec<Value> = Vec::new();
        if let Some(instructions) = self.instructions {
            messages.push(json!({ "role": "system", "content": instructions }));
        }
        let items = match self.input {
            Input::Text(text) => {
                vec![Item::Message { role: Role::User, content: Content::Text(text) }]
            }
            Input::Items(items) => items,
        };
        items.into_iter().for_each(|item| item.add_to(&mut messages));
        let mut chat = json!({
            "messages": messages, "max_tokens": self.max_output_tokens, "user": self.user,
            "temperature": self.temperature, "top_p": self.top_p, "stream": self.stream,
            "parallel_tool_calls": self.parallel_tool_calls,
        });
        if let Some(tools) = self.tools {
            let tool = |Tool { name, description, parameters, .. }| {
                let mut function = Map::from_iter([("name".to_owned(), Value::from(name))]);
                let more = [
                    ("description", description.map(Value::from)),
                    ("parameters", parameters.map(Value::from)),
                ];
                function
                    .extend(more.into_iter().filter_map(|(name, v)| Some((name.to_owned(), v?))));
                json!({ "type": "function", "function": function })
            };
            chat["tools"] = tools.into_iter().map(tool).collect();
        }
        chat["tool_choice"] = match self.tool_choice {
            Some(choice) if choice["name"].is_string() => {
                json!({ "type": choice["type"], "function": { "name": choice["name"] } })
            }
            choice => choice.into(),
        };
        chat["response_format"] = match self.text.and_then(|text| text.format) {
            None | Some(Format::Text {}) => Value::Null,
            Some(Format::JsonObject {}) => json!({ "type": "json_object" }),
            Some(Format::JsonSchema { schema }) => {
                json!({ "type": "json_schema", "json_schema": { "schema": schema } })
            }
        };
        chat
    }
}

impl Item {
    /// Adds the item to the messages of a chat request. Calls belong to the message before them.
    fn add_to(self, messages: &mut Vec<Value>) {
        match self {
            Self::Typed(Typed::Reasoning {}) => {}
            Self::Typed(Typed::FunctionCall { call_id, name, arguments }) => {
                let function = json!({ "name": name, "arguments": arguments });
                let call = json!({ "id": call_id, "type": "function", "function": function });
                if messages.last().is_none_or(|message| message["role"] != "assistant") {
                    messages.push(json!({ "role": "assistant", "content": "" }));
                }
                if let Some(message) = messages.last_mut() {
                    match message["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => message["tool_calls"] = json!([call]),
                    }
                }
            }
            Self::Typed(Typed::FunctionCallOutput { call_id, output }) => messages.push(json!({
                "role": "tool", "tool_call_id": call_id, "content": output.joined(),
            })),
            Self::Message { role, content } => {
                let role = match role {
                    Role::System | Role::Developer => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                messages.push(json!({ "role": role, "content": content.joined() }));
            }
        }
    }
}
