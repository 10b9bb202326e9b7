//! Log-probabilities, as completions and as chat completions report them.

use std::collections::BTreeMap;

use mlx_llamba::Tokenizer;
use mlx_llamba::decode::generation::TokenLogprobs;
use schemars::JsonSchema;
use serde::Serialize;

/// A list of log-probabilities in the form of an endpoint.
pub(crate) trait Logprobs: Clone + Default + Send + 'static {
    /// Adds a token. The first one of a prompt has no log-probabilities.
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprobs>);
    fn is_empty(&self) -> bool;
    /// Takes the tokens that were added since the last time.
    fn take(&mut self) -> Self;
}

/// A completion's tokens, one entry per token in each list.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// `null` for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of the text before each token.
    text_offset: Vec<usize>,
    #[serde(skip)]
    offset: usize,
}

impl Logprobs for CompletionLogprobs {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprobs>) {
        let text = spelled(tokenizer, id);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(found.map(|found| finite(found.chosen)));
        self.top_logprobs.push(found.map(|found| {
            let entry = |&(id, value): &(u32, f32)| (spelled(tokenizer, id), finite(value));
            // The more likely of two tokens with one spelling counts: it comes last.
            found.top.iter().rev().map(entry).collect()
        }));
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn take(&mut self) -> Self {
        let rest = Self { offset: self.offset, ..Self::default() };
        std::mem::replace(self, rest)
    }
}

/// A chat completion's tokens.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// Always `null`.
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

impl Logprobs for ChatLogprobs {
    fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprobs>) {
        let Some(found) = found else { return };
        let likely = |&(id, value): &(u32, f32)| Likely::new(tokenizer, id, value);
        self.content.push(ChatToken {
            chosen: Likely::new(tokenizer, id, found.chosen),
            top_logprobs: found.top.iter().map(likely).collect(),
        });
    }
}

/// Returns a token's text. Bytes that are not whole characters are written as OpenAI's completions
/// write them.
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

/// Replaces infinity, which JSON does not have.
fn finite(value: f32) -> f32 {
    value.max(-9999.0)
}
