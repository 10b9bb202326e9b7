//! Responses, whole or as events.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::answer::{Choice, Form, Head};
use crate::api::tokens::ChatLogprobs;
use crate::api::usage::Usage;
use crate::kept::Called;

/// The model's answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ResponseAnswer {
    id: String,
    object: &'static str,
    created_at: u64,
    /// `completed`, or `incomplete` at the maximum number of tokens.
    status: &'static str,
    incomplete_details: Option<Value>,
    error: Option<()>,
    model: String,
    /// A message, then the calls of functions.
    output: Vec<Value>,
    usage: Option<Value>,
    parallel_tool_calls: bool,
    tool_choice: &'static str,
    tools: Vec<Value>,
    previous_response_id: Option<()>,
}

/// An event of a stream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ResponseEvent {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: usize,
    #[serde(flatten)]
    rest: Value,
}

/// The form of responses.
pub(super) struct Responses;

/// The progress of a stream.
#[derive(Default)]
pub(crate) struct Progress {
    sequence: usize,
    output: Vec<Value>,
    /// The text of the message that may go on, which is the last item.
    text: Option<String>,
    finish: Option<&'static str>,
}

fn answer(
    head: &Head,
    status: &'static str,
    output: Vec<Value>,
    usage: Option<Usage>,
) -> ResponseAnswer {
    let usage = usage.map(|usage| {
        json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": usage.prompt_tokens_details.cached_tokens },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.total_tokens,
        })
    });
    ResponseAnswer {
        id: head.id.clone(),
        object: "response",
        created_at: head.created,
        status,
        incomplete_details: (status == "incomplete")
            .then(|| json!({ "reason": "max_output_tokens" })),
        error: None,
        model: head.model.clone(),
        output,
        usage,
        parallel_tool_calls: true,
        tool_choice: "auto",
        tools: Vec::new(),
        previous_response_id: None,
    }
}

fn status(finish: Option<&'static str>) -> &'static str {
    if finish == Some("length") { "incomplete" } else { "completed" }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

/// A message of the output.
fn message(head: &Head, status: &str, content: &[Value]) -> Value {
    json!({
        "id": head.id.replacen("resp", "msg", 1), "type": "message", "role": "assistant",
        "status": status, "content": content,
    })
}

fn function_call(called: &Called, status: &str, arguments: &str) -> Value {
    let Called { id, name, .. } = called;
    json!({
        "id": format!("fc_{id}"), "type": "function_call", "call_id": id, "name": name,
        "arguments": arguments, "status": status,
    })
}

impl Progress {
    fn event(&mut self, kind: &'static str, rest: Value) -> String {
        let sequence_number = self.sequence;
        self.sequence += 1;
        crate::api::stream::json(&ResponseEvent { kind, sequence_number, rest })
    }

    /// Ends the message, if one has begun.
    fn end_text(&mut self, head: &Head, events: &mut Vec<String>) {
        let Some(text) = self.text.take() else { return };
        let (part, status) = (part(&text), status(self.finish));
        let item = message(head, status, std::slice::from_ref(&part));
        let place =
            json!({ "item_id": item["id"], "output_index": self.output.len(), "content_index": 0 });
        let with = |name: &str, value: &Value| {
            let mut rest = place.clone();
            rest[name] = value.clone();
            rest
        };
        events.push(self.event("response.output_text.done", with("text", &text.into())));
        events.push(self.event("response.content_part.done", with("part", &part)));
        let rest = json!({ "output_index": self.output.len(), "item": item });
        events.push(self.event("response.output_item.done", rest));
        self.output.push(item);
    }
}

impl Form for Responses {
    const ID: &'static str = "resp";
    const NAMED: bool = true;
    type Logprobs = ChatLogprobs;
    type Whole = ResponseAnswer;
    type Progress = Progress;

    fn whole(head: Head, choices: Vec<Choice<ChatLogprobs>>, usage: Usage) -> ResponseAnswer {
        let (mut output, mut finish) = (Vec::new(), None);
        for choice in choices {
            finish = choice.finish;
            if !choice.text.is_empty() || choice.calls.is_empty() {
                output.push(message(&head, status(finish), &[part(&choice.text)]));
            }
            let call = |called: &Called| function_call(called, "completed", &called.arguments);
            output.extend(choice.calls.iter().map(call));
        }
        answer(&head, status(finish), output, Some(usage))
    }

    fn begin(head: &Head, progress: &mut Progress, _: Usage) -> Vec<String> {
        let started = json!({ "response": answer(head, "in_progress", Vec::new(), None) });
        let created = progress.event("response.created", started.clone());
        vec![created, progress.event("response.in_progress", started)]
    }

    fn chunks(
        head: &Head,
        progress: &mut Progress,
        choice: Choice<ChatLogprobs>,
        _: Option<Usage>,
    ) -> Vec<String> {
        let mut events = Vec::new();
        progress.finish = choice.finish;
        if !choice.text.is_empty() {
            let (index, item) = (progress.output.len(), message(head, "in_progress", &[]));
            let place = json!({ "item_id": item["id"], "output_index": index, "content_index": 0 });
            if progress.text.is_none() {
                progress.text = Some(String::new());
                let rest = json!({ "output_index": index, "item": item });
                events.push(progress.event("response.output_item.added", rest));
                let mut rest = place.clone();
                rest["part"] = part("");
                events.push(progress.event("response.content_part.added", rest));
            }
            if let Some(text) = &mut progress.text {
                text.push_str(&choice.text);
            }
            let mut rest = place;
            rest["delta"] = choice.text.into();
            rest["logprobs"] = json!([]);
            events.push(progress.event("response.output_text.delta", rest));
        }
        for called in &choice.calls {
            progress.end_text(head, &mut events);
            let index = progress.output.len();
            let item = function_call(called, "in_progress", "");
            let place = json!({ "item_id": item["id"], "output_index": index });
            let rest = json!({ "output_index": index, "item": item });
            events.push(progress.event("response.output_item.added", rest));
            let mut rest = place.clone();
            rest["delta"] = called.arguments.clone().into();
            events.push(progress.event("response.function_call_arguments.delta", rest));
            let mut rest = place;
            rest["arguments"] = called.arguments.clone().into();
            rest["name"] = called.name.clone().into();
            events.push(progress.event("response.function_call_arguments.done", rest));
            let item = function_call(called, "completed", &called.arguments);
            let rest = json!({ "output_index": index, "item": item });
            events.push(progress.event("response.output_item.done", rest));
            progress.output.push(item);
        }
        events
    }

    fn last(head: &Head, progress: &mut Progress, usage: Usage) -> Vec<String> {
        let mut events = Vec::new();
        progress.end_text(head, &mut events);
        let status = status(progress.finish);
        let output = std::mem::take(&mut progress.output);
        let kind =
            if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        let response = answer(head, status, output, Some(usage));
        events.push(progress.event(kind, json!({ "response": response })));
        events
    }
}
