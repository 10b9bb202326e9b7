//! Attention masks.

use mlx_llamba_kernels::scan::{cummax, cumsum};
use mlx_rs::ops::{arange, expand_dims, select};
use mlx_rs::{Array, Dtype};

/// Attention to the last `size` tokens (the token itself among them) and the first `sinks` ones
/// of the document: what a Transformer does with bounded memory and no training.
///
/// Source: StreamingLLM (arXiv 2309.17453); positions stay those of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Tokens seen at the end.
    pub size: usize,
    /// Tokens seen at the beginning.
    pub sinks: usize,
}

/// The keys at `0..offset + l` that queries at `offset..offset + l` see: (1 or b, 1, l, offset + l)
/// bool, true where they see. `None` if they see everything. `starts` (b, l) goes with an offset
/// of 0 only. Texts begin at `first` (b,): what stands before is padding and sees itself alone, so
/// that its numbers stay finite.
pub(crate) fn visible(
    l: usize,
    offset: usize,
    first: Option<&Array>,
    starts: Option<&Array>,
    window: Option<Window>,
) -> mlx_rs::error::Result<Option<Array>> {
    let end = (offset + l) as i32;
    let bounded = window.is_some_and(|w| w.size.saturating_add(w.sinks) < offset + l);
    if l == 1 && !bounded && starts.is_none() && first.is_none() {
        return Ok(None);
    }
    let query = arange::<_, i32>(offset as i32, end, None)?.reshape(&[-1, 1])?; // (l, 1)
    let key = arange::<_, i32>(None, end, None)?.reshape(&[1, -1])?; // (1, t)
    let mut mask = key.le(&query)?; // (l, t)
    let mut index = key.clone(); // of a key in its document
    if let Some(starts) = starts {
        // A document goes from a start to before the next; what stands before the first start
        // is one too.
        let document = cumsum(&starts.as_dtype(Dtype::Int32)?)?; // (b, l)
        let of_query = expand_dims(&document, -1)?; // (b, l, 1)
        let of_key = expand_dims(&document, -2)?; // (b, 1, l)
        mask = mask.logical_and(of_query.eq(of_key)?)?; // (b, l, l)
        let first = cummax(&select(starts, &key, Array::from_int(0))?)?; // (b, l)
        index = expand_dims(&key.subtract(first)?, -2)?; // (b, 1, l)
    }
    if let Some(first) = first {
        index = key.subtract(first.reshape(&[-1, 1, 1])?)?; // (b, 1, t)
        let real = index.ge(Array::from_int(0))?;
        mask = mask.logical_and(real)?.logical_or(key.eq(&query)?)?; // (b, l, t)
    }
    if let Some(window) = window.filter(|_| bounded) {
        let near = query.subtract(Array::from_int(window.size as i32))?.lt(&key)?; // (l, t)
        let sink = index.lt(Array::from_int(window.sinks as i32))?; // (1, t) or (b, 1, l)
        mask = mask.logical_and(near.logical_or(sink)?)?;
    }
    let b = if mask.ndim() == 3 { mask.dim(0) } else { 1 };
    Ok(Some(mask.reshape(&[b, 1, l as i32, end])?)) // (b, 1, l, t)
}
