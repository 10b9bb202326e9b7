//! The largest sizes that are read from files: far above any model, and so small that no product
//! overflows.

pub(crate) const VOCAB: usize = 1 << 24;
pub(crate) const WIDTH: usize = 1 << 20;
pub(crate) const LAYERS: usize = 1 << 12;
pub(crate) const HEADS: usize = 1 << 12;
pub(crate) const CONTEXT: usize = 1 << 28;
/// MLX counts the elements of an array in 31 bits in places.
pub(crate) const ELEMENTS: usize = i32::MAX as usize;
