//! The input of a training step.

use mlx_rs::Array;

/// Windows of a packed corpus.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | tokens | (b, l) | uint32 |
/// | next | (b, l): the token after each | uint32 |
/// | learned | positions in (b l), ascending, whose next token is learned; `None` for all | |
/// | starts | (b, l): true at the first token of a document, which sees nothing before it; `None` to read across documents | bool |
#[derive(Debug, Clone)]
pub struct Batch {
    /// The tokens of the windows.
    pub tokens: Array,
    /// The token that follows each token.
    pub next: Array,
    /// True at the first token of a document.
    pub starts: Option<Array>,
    /// The positions whose next token is learned.
    pub learned: Option<Vec<u32>>,
}

impl Batch {
    /// The number of positions whose next token is learned.
    #[must_use]
    pub fn count_learned(&self) -> usize {
        self.learned.as_ref().map_or(self.tokens.size(), Vec::len)
    }
}
