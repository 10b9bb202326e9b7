//! Named arrays that training changes.

use std::collections::BTreeMap;

use mlx_rs::Array;

/// A model's float tensors by their checkpoint names, in the order of the names.
pub type Parameters = BTreeMap<String, Array>;
