//! Chat completions, whole or in chunks.

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::answer::{Choice, Form, Head};
use crate::api::stream;
use crate::api::tokens::{ChatLogprobs, Logprobs};
use crate::api::usage::Usage;
use crate::kept::Called;

/// The model's message.
#[derive(Debug, Serialize, JsonSchema)]
struct ReplyMessage {
    role: &'static str,
    /// `null` if there are only calls.
    content: Option<String>,
    /// Always `null`.
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

/// A call of a tool.
#[derive(Debug, Serialize, JsonSchema)]
struct Call {
    /// In a stream, the place among the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CalledFunction,
}

/// A function and its arguments, the text of a JSON object.
#[derive(Debug, Serialize, JsonSchema)]
struct CalledFunction {
    name: String,
    arguments: String,
}

impl Call {
    fn new(Called { id, name, arguments }: Called, index: Option<usize>) -> Self {
        Self { index, id, kind: "function", function: CalledFunction { name, arguments } }
    }
}

/// One of the messages that were asked for.
#[derive(Debug, Serialize, JsonSchema)]
struct ChatChoice {
    index: usize,
    message: ReplyMessage,
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    finish_reason: &'static str,
}

/// Messages of the model.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
}

/// An addition to a message.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

/// An addition to a choice.
#[derive(Debug, Serialize, JsonSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`; `null` before the end.
    finish_reason: Option<&'static str>,
}

/// A chunk of a stream of messages.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// The form of chat completions.
pub(super) struct Chat;

impl Form for Chat {
    const ID: &'static str = "chatcmpl";
    type Logprobs = ChatLogprobs;
    type Whole = ChatCompletion;
    type Progress = ();

    fn whole(head: Head, choices: Vec<Choice<ChatLogprobs>>, usage: Usage) -> ChatCompletion {
        let choice = |choice: Choice<ChatLogprobs>| ChatChoice {
            index: choice.index,
            message: ReplyMessage {
                role: "assistant",
                content: Some(choice.text).filter(|t| !t.is_empty() || choice.calls.is_empty()),
                refusal: None,
                tool_calls: choice.calls.into_iter().map(|call| Call::new(call, None)).collect(),
            },
            logprobs: choice.logprobs,
            finish_reason: choice.finish.unwrap_or("stop"),
        };
        let Head { id, created, model } = head;
        let choices = choices.into_iter().map(choice).collect();
        ChatCompletion { id, object: "chat.completion", created, model, choices, usage }
    }

    fn chunks(
        head: &Head,
        (): &mut (),
        choice: Choice<ChatLogprobs>,
        usage: Option<Usage>,
    ) -> Vec<String> {
        let Choice { index, first, text, calls, called, logprobs, finish, .. } = choice;
        let mut choices = Vec::new();
        let plain = |delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
        if first {
            choices.push(plain(Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                ..Delta::default()
            }));
        }
        let tokens = logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        if !text.is_empty() || tokens {
            let delta = Delta { content: Some(text), ..Delta::default() };
            choices.push(ChunkChoice { logprobs, ..plain(delta) });
        }
        for (i, call) in calls.into_iter().enumerate() {
            let tool_calls = vec![Call::new(call, Some(called + i))];
            choices.push(plain(Delta { tool_calls, ..Delta::default() }));
        }
        if finish.is_some() {
            choices.push(ChunkChoice { finish_reason: finish, ..plain(Delta::default()) });
        }
        choices.into_iter().map(|choice| chunk(head, vec![choice], usage)).collect()
    }

    fn last(head: &Head, (): &mut (), usage: Usage) -> Vec<String> {
        vec![chunk(head, Vec::new(), Some(usage))]
    }
}

fn chunk(head: &Head, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
    let Head { id, created, model } = head.clone();
    let object = "chat.completion.chunk";
    stream::json(&ChatChunk { id, object, created, model, choices, usage })
}
