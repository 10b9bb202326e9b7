//! A step of AdamW in one pass over memory.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::raw;
use crate::AdamWStep;

/// See [`Backend::adamw`](crate::Backend::adamw); shapes and dtypes have been checked.
pub(crate) fn adamw(arrays: [&Array; 4], how: AdamWStep) -> Result<[Array; 3]> {
    let AdamWStep { scale, beta1, beta2, root, epsilon, rate, kept } = how;
    raw::adamw(arrays, [scale, beta1, beta2, root, epsilon, rate, kept])
}
