//! Rows of a batch that differ in length or hold several documents.

use mlx_rs::Array;

/// The ends of a batch's rows, and the starts of documents in them.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | lengths | (b,) tokens of each row that count; the rest is padding | int32 |
/// | starts | (b, l): true where a document starts, which sees nothing before it | bool |
#[derive(Debug, Clone, Copy, Default)]
pub struct RowLayout<'a> {
    /// For rows of different lengths.
    pub lengths: Option<&'a Array>,
    /// For rows of several documents; computed by plain MLX operations.
    pub starts: Option<&'a Array>,
}
