//! Messages, whole or as events.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::answer::{Choice, Form, Head};
use crate::api::tokens::ChatLogprobs;
use crate::api::usage::Usage;
use crate::kept::Called;

/// A block of the model's message.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OutputBlock {
    Text { text: String },
    ToolUse { id: String, name: String, input: Value },
}

/// Tokens read and generated.
#[derive(Debug, Serialize, JsonSchema)]
struct MessageUsage {
    /// Tokens that were read.
    input_tokens: usize,
    /// Tokens that were not read again.
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

/// The model's message.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MessageAnswer {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: String,
    content: Vec<OutputBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    usage: MessageUsage,
}

/// An event of a stream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct MessageEvent {
    /// `message_start`, `content_block_start`, `content_block_delta`, `content_block_stop`,
    /// `message_delta` or `message_stop`.
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    rest: Value,
}

/// The form of messages.
pub(super) struct Messages;

/// The progress of a stream.
#[derive(Default)]
pub(crate) struct Progress {
    /// The number of blocks that began.
    blocks: usize,
    /// The last block is text that may go on.
    open: bool,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

fn usage(usage: Usage) -> MessageUsage {
    let cached = usage.prompt_tokens_details.cached_tokens;
    MessageUsage {
        input_tokens: usage.prompt_tokens - cached.min(usage.prompt_tokens),
        cache_read_input_tokens: cached,
        output_tokens: usage.completion_tokens,
    }
}

fn reason(finish: Option<&'static str>, stopped_by: Option<&String>) -> Option<&'static str> {
    finish.map(|finish| match finish {
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        _ if stopped_by.is_some() => "stop_sequence",
        _ => "end_turn",
    })
}

fn event(kind: &'static str, rest: Value) -> String {
    crate::api::stream::json(&MessageEvent { kind, rest })
}

impl Progress {
    fn begin(&mut self, block: &Value) -> String {
        let index = self.blocks;
        self.blocks += 1;
        event("content_block_start", json!({ "index": index, "content_block": block }))
    }

    fn delta(&self, delta: &Value) -> String {
        event(
            "content_block_delta",
            json!({ "index": self.blocks.saturating_sub(1), "delta": delta }),
        )
    }

    fn end(&mut self) -> String {
        self.open = false;
        event("content_block_stop", json!({ "index": self.blocks.saturating_sub(1) }))
    }
}

impl Form for Messages {
    const ID: &'static str = "msg";
    const NAMED: bool = true;
    type Logprobs = ChatLogprobs;
    type Whole = MessageAnswer;
    type Progress = Progress;

    fn whole(head: Head, choices: Vec<Choice<ChatLogprobs>>, tokens: Usage) -> MessageAnswer {
        let mut content = Vec::new();
        let (mut stop_reason, mut stop_sequence) = (None, None);
        for choice in choices {
            if !choice.text.is_empty() || choice.calls.is_empty() {
                content.push(OutputBlock::Text { text: choice.text });
            }
            for Called { id, name, arguments } in choice.calls {
                let input = serde_json::from_str(&arguments).unwrap_or_default();
                content.push(OutputBlock::ToolUse { id, name, input });
            }
            stop_reason = reason(choice.finish, choice.stopped_by.as_ref());
            stop_sequence = choice.stopped_by;
        }
        let Head { id, model, .. } = head;
        let (kind, role) = ("message", "assistant");
        let usage = usage(tokens);
        MessageAnswer { id, kind, role, model, content, stop_reason, stop_sequence, usage }
    }

    fn begin(head: &Head, _: &mut Progress, tokens: Usage) -> Vec<String> {
        let message = Self::whole(head.clone(), Vec::new(), tokens);
        vec![event("message_start", json!({ "message": message }))]
    }

    fn chunks(
        _: &Head,
        progress: &mut Progress,
        choice: Choice<ChatLogprobs>,
        _: Option<Usage>,
    ) -> Vec<String> {
        let mut events = Vec::new();
        if !choice.text.is_empty() {
            if !progress.open {
                events.push(progress.begin(&json!({ "type": "text", "text": "" })));
                progress.open = true;
            }
            events.push(progress.delta(&json!({ "type": "text_delta", "text": choice.text })));
        }
        for Called { id, name, arguments } in choice.calls {
            if progress.open {
                events.push(progress.end());
            }
            let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
            events.push(progress.begin(&block));
            let delta = json!({ "type": "input_json_delta", "partial_json": arguments });
            events.push(progress.delta(&delta));
            events.push(progress.end());
        }
        if choice.finish.is_some() {
            progress.stop_reason = reason(choice.finish, choice.stopped_by.as_ref());
            progress.stop_sequence = choice.stopped_by;
        }
        events
    }

    fn last(_: &Head, progress: &mut Progress, tokens: Usage) -> Vec<String> {
        let mut events = Vec::new();
        if progress.open {
            events.push(progress.end());
        }
        let delta = json!({
            "stop_reason": progress.stop_reason, "stop_sequence": progress.stop_sequence,
        });
        events.push(event("message_delta", json!({ "delta": delta, "usage": usage(tokens) })));
        events.push(event("message_stop", json!({})));
        events
    }
}
