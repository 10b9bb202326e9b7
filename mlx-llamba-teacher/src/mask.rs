//! Attention masks.

use mlx_llamba_kernels::scan::{cummax, cumsum};
use mlx_rs::ops::{arange, expand_dims, select};
use mlx_rs::{Array, Dtype};

/// Attention to the last `size` tokens (the token itself among them) and the first `sinks` ones
/// of the document, which bounds a Transformer's memory without training.
///
/// Source: StreamingLLM (arXiv 2309.17453); positions stay those of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The number of last tokens seen.
    pub size: usize,
    /// The number of first tokens seen.
    pub sinks: usize,
}

/// Returns the mask of the keys at `0..offset + l` for the queries at `offset..offset + l`, (1 or b,
/// 1, l, offset + l) bool, true where a query sees a key; `None` if all are seen. `starts` (b, l)
/// requires an offset of 0.
pub(crate) fn visible(
    l: usize,
    offset: usize,
    starts: Option<&Array>,
    window: Option<Window>,
) -> mlx_rs::error::Result<Option<Array>> {
    let end = (offset + l) as i32;
    let bounded = window.is_some_and(|w| w.size.saturating_add(w.sinks) < offset + l);
    if l == 1 && !bounded && starts.is_none() {
        return Ok(None);
    }
    let query = arange::<_, i32>(offset as i32, end, None)?.reshape(&[-1, 1])?; // (l, 1)
    let key = arange::<_, i32>(None, end, None)?.reshape(&[1, -1])?; // (1, t)
    let mut mask = key.le(&query)?; // (l, t)
    let mut index = key.clone(); // of a key in its document
    if let Some(starts) = starts {
        // A document ends before the next start; tokens before the first start are one too.
        let document = cumsum(&starts.as_dtype(Dtype::Int32)?)?; // (b, l)
        let of_query = expand_dims(&document, -1)?; // (b, l, 1)
        let of_key = expand_dims(&document, -2)?; // (b, 1, l)
        mask = mask.logical_and(of_query.eq(of_key)?)?; // (b, l, l)
        let first = cummax(&select(starts, &key, Array::from_int(0))?)?; // (b, l)
        index = expand_dims(&key.subtract(first)?, -2)?; // (b, 1, l)
    }
    if let Some(window) = window.filter(|_| bounded) {
        let near = query.subtract(Array::from_int(window.size as i32))?.lt(&key)?; // (l, t)
        let sink = index.lt(Array::from_int(window.sinks as i32))?; // (1, t) or (b, 1, l)
        mask = mask.logical_and(near.logical_or(sink)?)?;
    }
    let b = if mask.ndim() == 3 { mask.dim(0) } else { 1 };
    Ok(Some(mask.reshape(&[b, 1, l as i32, end])?)) // (b, 1, l, t)
}

/// Returns what a mask adds to scores: 0 where it is true, else minus infinity.
pub(crate) fn summands(mask: &Array, dtype: Dtype) -> mlx_rs::error::Result<Array> {
    select(mask, Array::from_f32(0.0), Array::from_f32(f32::NEG_INFINITY))?.as_dtype(dtype)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mlx_llamba_kernels::Backend;
    use mlx_rs::Array;
    use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
    use mlx_rs::ops::swap_axes;

    use super::{summands, visible};

    #[test]
    fn summands_hide_what_the_mask_hides() {
        let (b, h, l, k) = (2, 3, 7, 4);
        let array = |seed: i32| {
            let values = (0..b * h * l * k).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 8.0 - 1.0);
            Array::from_slice(&values.collect::<Vec<_>>(), &[b, h, l, k])
        };
        let [queries, keys, values] = [1, 2, 3].map(array);
        let starts: Vec<bool> = (0..b * l).map(|i| i % l == 0 || i == 3 || i == 12).collect();
        let starts = Array::from_slice(&starts, &[b, l]);
        let mask = visible(l as usize, 0, Some(&starts), None).unwrap().unwrap();

        let summands = summands(&mask, queries.dtype()).unwrap();
        let of = ScaledDotProductAttentionMask::Array(&summands);
        let found = scaled_dot_product_attention(&queries, &keys, &values, 0.5, of, None).unwrap();

        let scores = queries.matmul(swap_axes(&keys, -1, -2).unwrap()).unwrap();
        let scores = scores.multiply(Array::from_f32(0.5)).unwrap();
        let weights = Backend::PLAIN.softmax(&scores, Some(&mask)).unwrap();
        let expected = weights.matmul(&values).unwrap();
        let furthest = found.subtract(&expected).unwrap().abs().unwrap().max(None).unwrap();
        assert!(furthest.item_exact::<f32>() < 1e-5, "{furthest}");
    }
}
