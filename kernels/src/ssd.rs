//! The recurrence `H_t = a_t H_{t-1} + x_t (outer) B_t`, `y_t = H_t C_t`, in plain MLX operations.
//!
//! There are two exact forms: [`step`] for one token, [`chunked`] for many. Both take a state and
//! return the next, in float32.
//!
//! The chunked form is the state space dual of Mamba-2 (arXiv 2405.21060, section 6): inside a
//! chunk of [`CHUNK`] tokens the recurrence is a masked matrix multiplication, between chunks it is
//! a recurrence over chunk states. Time and memory are linear in the length.

use mlx_rs::error::Result;
use mlx_rs::ops::{
    broadcast_to, concatenate, expand_dims, expand_dims_axes, select, split_at_indices,
    squeeze_axes, stack, swap_axes, tri, zeros_dtype,
};
use mlx_rs::{Array, Dtype};

use crate::Dims;
use crate::elementwise::Functions;
use crate::scan::cumsum;

/// Tokens of a chunk, `q`. A larger one means more work inside chunks and fewer chunk states; at
/// q = n = p = 64 the four matrix multiplications of a chunk are equally large.
pub const CHUNK: usize = 64;

/// Computes one token. All float32.
///
/// | arg | shape |
/// |---|---|
/// | x | (b, h, p) |
/// | a | (b, h) |
/// | B, C | (b, g, n) |
/// | H | (b, h, p, n) |
///
/// Returns y (b, h, p) and the new H.
pub(crate) fn step(
    x: &Array,
    a: &Array,
    B: &Array,
    C: &Array,
    H: &Array,
    dims: Dims,
) -> Result<(Array, Array)> {
    let Dims { h, g, p, n, .. } = dims;
    let (b, r) = (x.dim(0), (h / g) as i32);
    let (h, g, p, n) = (h as i32, g as i32, p as i32, n as i32);
    let x = x.reshape(&[b, g, r, p, 1])?; // (b, g, r, p, 1)
    let a = a.reshape(&[b, g, r, 1, 1])?; // (b, g, r, 1, 1)
    let B = B.reshape(&[b, g, 1, 1, n])?; // (b, g, 1, 1, n)
    let C = C.reshape(&[b, g, 1, n, 1])?; // (b, g, 1, n, 1)
    let H = H.reshape(&[b, g, r, p, n])?; // (b, g, r, p, n)
    let H = H.multiply(&a)?.add(x.multiply(&B)?)?;
    let y = H.matmul(&C)?; // (b, g, r, p, 1)
    Ok((y.reshape(&[b, h, p])?, H.reshape(&[b, h, p, n])?))
}

/// Computes any number of tokens. All float32.
///
/// | arg | shape |
/// |---|---|
/// | x | (b, l, h, p) |
/// | log_a | (b, l, h), <= 0 |
/// | B, C | (b, l, g, n) |
/// | H | (b, h, p, n) |
/// | starts | (b, l) bool: true where a document starts |
///
/// Returns y (b, l, h, p) and the H after the last token.
pub(crate) fn chunked(
    x: &Array,
    log_a: &Array,
    [B, C]: [&Array; 2],
    H: &Array,
    starts: Option<&Array>,
    dims: Dims,
    functions: Functions,
) -> Result<(Array, Array)> {
    let Dims { h, g, p, n, .. } = dims;
    let (b, l, r) = (x.dim(0), x.dim(1), (h / g) as i32);
    let (h, g, p, n) = (h as i32, g as i32, p as i32, n as i32);
    let q = l.min(CHUNK as i32);
    let chunks = (l + q - 1) / q;

    // Cut into chunks; heads before time, so that the multiplications below are of batched
    // matrices. A padded token has log_a = 0 and x = 0: it does not change H.
    let cut = |array: &Array, inner: &[i32]| -> Result<Array> {
        let padding = chunks * q - l;
        let array = if padding == 0 {
            array.clone()
        } else {
            let tail = [&[b, padding], &array.shape()[2..]].concat();
            let tail = zeros_dtype(&tail, array.dtype())?;
            concatenate(&[array, &tail], 1)?
        };
        array.reshape(&[&[b, chunks, q], inner].concat())
    };
    let x = cut(x, &[g, r, p])?.transpose_axes(&[0, 1, 3, 4, 2, 5])?; // (b, c, g, r, q, p)
    let log_a = cut(log_a, &[g, r])?.transpose_axes(&[0, 1, 3, 4, 2])?; // (b, c, g, r, q)
    let B = cut(B, &[g, n])?.transpose_axes(&[0, 1, 3, 2, 4])?; // (b, c, g, q, n)
    let C = cut(C, &[g, n])?.transpose_axes(&[0, 1, 3, 2, 4])?; // (b, c, g, q, n)
    let B = expand_dims(&B, 3)?; // (b, c, g, 1, q, n)
    let C = expand_dims(&C, 3)?; // (b, c, g, 1, q, n)

    let documents = match starts {
        None => None,
        Some(starts) => {
            let documents = documents(&cut(starts, &[])?)?; // (b, c, q)
            Some(expand_dims_axes(&documents, &[2, 3])?) // (b, c, 1, 1, q)
        }
    };
    let documents = documents.as_ref();

    // 1. Decay from token s to token t of a chunk.
    let L = decays(&log_a, documents, functions)?; // (b, c, g, r, s, t)

    // 2. Inside a chunk: Y = (L o B C^T)^T X.
    let scores = B.matmul(swap_axes(&C, -1, -2)?)?; // (b, c, g, 1, s, t)
    let mixing = swap_axes(L.multiply(&scores)?, -1, -2)?; // (b, c, g, r, t, s)
    let y_inside = mixing.matmul(&x)?; // (b, c, g, r, q, p)

    // 3. The contribution of each chunk to the state at its end: sum_s L[s, q-1] x_s (outer) B_s.
    let to_end = split_at_indices(&L, &[q - 1], -1)?.swap_remove(1); // (b, c, g, r, s, 1)
    let weighted = x.multiply(&to_end)?; // (b, c, g, r, q, p)
    let added = swap_axes(&weighted, -1, -2)?.matmul(&B)?; // (b, c, g, r, p, n)

    // 4. The recurrence over chunks.
    let mut from_start = (functions.exp)(&cumsum(&log_a)?)?; // (b, c, g, r, q)
    if let Some(documents) = documents {
        let goes_on = documents.eq(Array::from_int(0))?; // (b, c, 1, 1, q)
        from_start = select(&goes_on, &from_start, Array::from_f32(0.0))?;
    }
    let whole = split_at_indices(&from_start, &[q - 1], -1)?.swap_remove(1); // (b, c, g, r, 1)
    let whole = expand_dims(&whole, -1)?; // (b, c, g, r, 1, 1)
    let mut H = H.reshape(&[b, g, r, p, n])?; // (b, g, r, p, n)
    let mut incoming = Vec::with_capacity(chunks as usize);
    for (whole, added) in whole.split_equal(chunks, 1)?.iter().zip(added.split_equal(chunks, 1)?) {
        let next = H.multiply(squeeze_axes(whole, &[1])?)?.add(squeeze_axes(&added, &[1])?)?;
        incoming.push(std::mem::replace(&mut H, next));
    }
    let incoming = stack(&incoming, 1)?; // (b, c, g, r, p, n)

    // 5. The contribution of the state at the start of a chunk: exp(sum_{k<=t} log a_k) C_t H_in.
    let y_before = C.matmul(swap_axes(&incoming, -1, -2)?)?; // (b, c, g, r, q, p)
    let y = y_inside.add(y_before.multiply(expand_dims(&from_start, -1)?)?)?;

    let y = y.transpose_axes(&[0, 1, 4, 2, 3, 5])?; // (b, c, q, g, r, p)
    let y = y.reshape(&[b, chunks * q, h, p])?; // (b, c*q, h, p)
    let y = split_at_indices(&y, &[l], 1)?.swap_remove(0); // (b, l, h, p)
    Ok((y, H.reshape(&[b, h, p, n])?))
}

/// Decays between tokens: `L[s, t] = exp(sum_{s<k<=t} log a_k)` for s <= t, else 0.
///
/// `log_a` (.., t), <= 0; `documents` (.., t), which broadcasts to it: across a border between
/// documents the decay is 0. Returns (.., s, t).
pub(crate) fn decays(
    log_a: &Array,
    documents: Option<&Array>,
    functions: Functions,
) -> Result<Array> {
    let q = log_a.dim(-1);
    // Each sum is computed on its own: a difference of two cumulative sums would cancel. Terms
    // outside a sum are 0, so that no masked entry is infinite: its exp would have no gradient.
    // Sums run along the last axis: see `scan`.
    let above = tri::<f32>(q, None, Some(-1))?.t(); // (s, k): 1 where s < k
    let terms = expand_dims(log_a, -2)?.multiply(&above)?; // (.., s, k)
    let sums = cumsum(&terms)?; // (.., s, t)
    let mut counts = tri::<bool>(q, None, Some(0))?.t(); // (s, t)
    if let Some(documents) = documents {
        let same = expand_dims(documents, -1)?.eq(expand_dims(documents, -2)?)?; // (.., s, t)
        counts = counts.logical_and(&same)?;
    }
    select(&counts, (functions.exp)(&sums)?, Array::from_f32(0.0))
}

/// Returns the number of each token's document along the last axis of `starts` (.., t): 0 for the
/// one that continues from before, and one more at each start.
pub(crate) fn documents(starts: &Array) -> Result<Array> {
    cumsum(&starts.as_dtype(Dtype::Int32)?)
}

/// Returns (b, l), false for padding, given the lengths (b,) of the rows.
pub(crate) fn real(l: i32, lengths: &Array) -> Result<Array> {
    let positions = Array::from_iter(0..l, &[1, l]);
    positions.lt(expand_dims(lengths, 1)?)
}

/// Keeps padding from changing the state: sets log_a = 0 and x = 0 from each row's length on.
///
/// `lengths` (b,) integers; `x` (b, l, h, p), `log_a` (b, l, h).
pub(crate) fn mask_padding(x: &Array, log_a: &Array, lengths: &Array) -> Result<(Array, Array)> {
    let real = real(x.dim(1), lengths)?; // (b, l)
    let real = expand_dims(&real, -1)?; // (b, l, 1)
    let zero = Array::from_f32(0.0);
    let log_a = select(broadcast_to(&real, log_a.shape())?, log_a, &zero)?;
    let x = select(expand_dims_axes(&real, &[-1])?, x, &zero)?;
    Ok((x, log_a))
}
