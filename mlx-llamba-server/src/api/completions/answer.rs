//! Completions, whole or in chunks.

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::answer::{Choice, Form, Head};
use crate::api::stream;
use crate::api::tokens::CompletionLogprobs;
use crate::api::usage::Usage;

/// A continuation.
#[derive(Debug, Serialize, JsonSchema)]
struct TextChoice {
    text: String,
    index: usize,
    logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` before the end.
    finish_reason: Option<&'static str>,
}

/// Continuations, or a chunk of a stream of them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<TextChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// The form of completions.
pub(super) struct Text;

impl Form for Text {
    const ID: &'static str = "cmpl";
    type Logprobs = CompletionLogprobs;
    type Whole = Completion;
    type Progress = ();

    fn whole(head: Head, choices: Vec<Choice<CompletionLogprobs>>, usage: Usage) -> Completion {
        completion(head, choices, Some(usage))
    }

    fn chunks(
        head: &Head,
        (): &mut (),
        choice: Choice<CompletionLogprobs>,
        usage: Option<Usage>,
    ) -> Vec<String> {
        vec![stream::json(&completion(head.clone(), vec![choice], usage))]
    }

    fn last(head: &Head, (): &mut (), usage: Usage) -> Vec<String> {
        vec![stream::json(&completion(head.clone(), Vec::new(), Some(usage)))]
    }
}

fn completion(
    head: Head,
    choices: Vec<Choice<CompletionLogprobs>>,
    usage: Option<Usage>,
) -> Completion {
    let choice = |choice: Choice<CompletionLogprobs>| TextChoice {
        text: choice.text,
        index: choice.index,
        logprobs: choice.logprobs,
        finish_reason: choice.finish,
    };
    let Head { id, created, model } = head;
    let choices = choices.into_iter().map(choice).collect();
    Completion { id, object: "text_completion", created, model, choices, usage }
}
