//! Log-probabilities, as completions and as chat completions report them.

use std::collections::BTreeMap;

use mlx_llamba::Tokenizer;
use mlx_llamba::decode::detokenize::Detokenizer;
use mlx_llamba::decode::generation::TokenLogprobs;
use schemars::JsonSchema;
use serde::Serialize;

/// The log-probability of a token, and the most likely tokens with theirs.
type Found<'f> = Option<(f32, &'f [(u32, f32)])>;

/// A list of log-probabilities in the form of an endpoint.
pub(crate) trait Logprobs: Clone + Default + Send + 'static {
    /// Adds a token. The first one of a prompt has no log-probabilities.
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, found: Option<&TokenLogprobs>) {
        self.add(tokenizer, id, found.map(|found| (found.chosen, found.top.as_slice())));
    }

    /// Adds a token with its log-probability and those of the most likely ones.
    fn add(&mut self, tokenizer: &Tokenizer, id: u32, found: Found<'_>);
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
    /// Characters of the returned text before each token. Tokens that are no text have none, and a
    /// character of several tokens begins with the first of them.
    text_offset: Vec<usize>,
    #[serde(skip)]
    offset: usize,
    /// Counts the characters of the text.
    #[serde(skip)]
    text: Option<Detokenizer>,
}

impl Logprobs for CompletionLogprobs {
    fn add(&mut self, tokenizer: &Tokenizer, id: u32, found: Found<'_>) {
        self.text_offset.push(self.offset);
        let text = self.text.get_or_insert_with(|| Detokenizer::new(tokenizer, true));
        self.offset += text.push(id).chars().count();
        self.tokens.push(spelled(tokenizer, id));
        self.token_logprobs.push(found.map(|(chosen, _)| finite(chosen)));
        self.top_logprobs.push(found.map(|(chosen, top)| {
            let entry = |&(id, value): &(u32, f32)| (spelled(tokenizer, id), finite(value));
            // The more likely of two tokens with one spelling counts: it comes last. The chosen one
            // is always there.
            [(id, chosen)].iter().chain(top.iter().rev()).map(entry).collect()
        }));
    }

    fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn take(&mut self) -> Self {
        let rest = Self { offset: self.offset, text: self.text.clone(), ..Self::default() };
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

    fn add(&mut self, tokenizer: &Tokenizer, id: u32, found: Found<'_>) {
        let Some((chosen, top)) = found else { return };
        let likely = |&(id, value): &(u32, f32)| Likely::new(tokenizer, id, value);
        let chosen = Likely::new(tokenizer, id, chosen);
        let mut top_logprobs: Vec<Likely> = top.iter().map(likely).collect();
        // The chosen token is always among those that were asked for.
        if !top.is_empty() && top.iter().all(|(top, _)| *top != id) {
            top_logprobs.push(chosen.clone());
        }
        self.content.push(ChatToken { chosen, top_logprobs });
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_the_text_and_the_chosen_token_is_among_the_likely_ones() {
        let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba/assets/llamba-stories");
        let tokenizer = Tokenizer::open(assets).unwrap();
        // Characters of several tokens, and a token that is no text.
        let ids = tokenizer.encode("A \u{1f999}\u{65e5}x", true).unwrap();
        let found = Some((-3.0, &[(5, -0.5), (6, -1.0)][..]));
        let mut all = CompletionLogprobs::default();
        let mut parts = Vec::new();
        for &id in &ids {
            all.add(&tokenizer, id, found);
            parts.extend(all.take().text_offset);
        }
        let expected: Vec<usize> = (0..ids.len())
            .map(|i| {
                let text = tokenizer.decode(&ids[..i], true).unwrap();
                text.trim_end_matches('\u{fffd}').chars().count()
            })
            .collect();
        assert_eq!(parts, expected);
        assert!(ids.len() > 8 && expected.last() == Some(&4), "{expected:?}");

        all.add(&tokenizer, ids[1], found);
        let top = all.top_logprobs[0].clone().unwrap();
        assert_eq!((top.len(), top[&spelled(&tokenizer, ids[1])]), (3, -3.0));
        let mut chat = ChatLogprobs::default();
        chat.add(&tokenizer, ids[1], found);
        chat.add(&tokenizer, 5, found);
        chat.add(&tokenizer, 5, Some((-3.0, &[])));
        let counts: Vec<usize> = chat.content.iter().map(|t| t.top_logprobs.len()).collect();
        assert_eq!(counts, [3, 2, 0]);
    }
}
