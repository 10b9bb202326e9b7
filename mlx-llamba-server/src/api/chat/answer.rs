//! Chat completions, whole or in chunks.

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::answer::{Choice, Form, Head};
use crate::api::stream;
use crate::api::tokens::{ChatLogprobs, Logprobs};
use crate::api::usage::Usage;

/// The model's message.
#[derive(Debug, Serialize, JsonSchema)]
struct ReplyMessage {
    role: &'static str,
    content: String,
    /// Always `null`.
    refusal: Option<()>,
}

/// One of the messages that were asked for.
#[derive(Debug, Serialize, JsonSchema)]
struct ChatChoice {
    index: usize,
    message: ReplyMessage,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
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
}

/// An addition to a choice.
#[derive(Debug, Serialize, JsonSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`; `null` before the end.
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

    fn whole(head: Head, choices: Vec<Choice<ChatLogprobs>>, usage: Usage) -> ChatCompletion {
        let choice = |choice: Choice<ChatLogprobs>| ChatChoice {
            index: choice.index,
            message: ReplyMessage { role: "assistant", content: choice.text, refusal: None },
            logprobs: choice.logprobs,
            finish_reason: choice.finish.unwrap_or("stop"),
        };
        let Head { id, created, model } = head;
        let choices = choices.into_iter().map(choice).collect();
        ChatCompletion { id, object: "chat.completion", created, model, choices, usage }
    }

    fn chunks(head: &Head, choice: Choice<ChatLogprobs>, usage: Option<Usage>) -> Vec<String> {
        let Choice { index, first, text, logprobs, finish } = choice;
        let mut choices = Vec::new();
        let plain = |delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
        if first {
            choices.push(plain(Delta { role: Some("assistant"), content: Some(String::new()) }));
        }
        let tokens = logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty());
        if !text.is_empty() || tokens {
            let delta = Delta { role: None, content: Some(text) };
            choices.push(ChunkChoice { logprobs, ..plain(delta) });
        }
        if finish.is_some() {
            choices.push(ChunkChoice { finish_reason: finish, ..plain(Delta::default()) });
        }
        choices.into_iter().map(|choice| chunk(head, vec![choice], usage)).collect()
    }

    fn last(head: &Head, usage: Usage) -> String {
        chunk(head, Vec::new(), Some(usage))
    }
}

fn chunk(head: &Head, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
    let Head { id, created, model } = head.clone();
    let object = "chat.completion.chunk";
    stream::json(&ChatChunk { id, object, created, model, choices, usage })
}
