//! Tokens of a request.

use schemars::JsonSchema;
use serde::Serialize;

/// Tokens read and generated.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptDetails,
}

/// Details of the prompt.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub(crate) struct PromptDetails {
    /// Tokens that were not read again: the state after them was kept.
    pub(crate) cached_tokens: usize,
}

impl Usage {
    /// Counts the tokens of one more prompt.
    pub(crate) fn prompt(&mut self, tokens: usize, cached: usize) {
        self.prompt_tokens += tokens;
        self.total_tokens += tokens;
        self.prompt_tokens_details.cached_tokens += cached;
    }

    /// Counts one more generated token.
    pub(crate) fn token(&mut self) {
        self.completion_tokens += 1;
        self.total_tokens += 1;
    }
}
