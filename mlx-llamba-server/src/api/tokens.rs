//! Log-probabilities, as completions and as chat completions report them.

use std::collections::BTreeMap;

use mlx_llamba::{TokenLogprobs, Tokenizer};
use schemars::JsonSchema;
use serde::Serialize;

/// A completion's tokens, one entry a token in each list.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// `null` for the first token of a prompt: nothing foretells it.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of the text before each token.
    text_offset: Vec<usize>,
    #[serde(skip)]
    offset: usize,
}

impl CompletionLogprobs {
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprobs>) {
        let text = spelled(tokenizer, id);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(found.map(|found| finite(found.chosen)));
        self.top_logprobs.push(found.map(|found| {
            let entry = |&(id, value): &(u32, f32)| (spelled(tokenizer, id), finite(value));
            // Of two tokens with one spelling the likelier one counts: it comes last.
            found.top.iter().rev().map(entry).collect()
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// What was pushed since the last time.
    pub(crate) fn take(&mut self) -> Self {
        let rest = Self { offset: self.offset, ..Self::default() };
        std::mem::replace(self, rest)
    }
}

/// A chat completion's tokens.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// Always `null`: this server refuses nothing.
    refusal: Option<()>,
}

/// One token of a chat completion.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ChatToken {
    #[serde(flatten)]
    chosen: Likely,
    top_logprobs: Vec<Likely>,
}

/// A token and its log-probability.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Likely {
    token: String,
    logprob: f32,
    /// The token's bytes, which need not be whole characters.
    bytes: Vec<u8>,
}

impl Likely {
    fn new(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Self {
        let bytes = tokenizer.bytes(id);
        let token = String::from_utf8_lossy(&bytes).into_owned();
        Self { token, logprob: finite(logprob), bytes }
    }
}

impl ChatLogprobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: &TokenLogprobs) {
        let likely = |&(id, value): &(u32, f32)| Likely::new(tokenizer, id, value);
        self.content.push(ChatToken {
            chosen: Likely::new(tokenizer, id, found.chosen),
            top_logprobs: found.top.iter().map(likely).collect(),
        });
    }
}

/// A token's text; bytes that are no characters of their own as OpenAI's completions write them.
fn spelled(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.bytes(id);
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let hex = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            "bytes:".to_owned() + &hex.collect::<String>()
        }
    }
}

/// JSON knows no infinity.
fn finite(value: f32) -> f32 {
    value.max(-9999.0)
}
