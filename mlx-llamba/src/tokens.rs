//! Token ids as arrays.

use mlx_rs::Array;

use crate::error::{Error, Result};

/// Checks that there is a token, and that all are in the vocabulary.
///
/// # Errors
/// [`Error::TokenOutOfRange`]; [`Error::EmptyPrompt`] if no row has a token.
pub(crate) fn check(rows: &[&[u32]], vocab_size: usize) -> Result<()> {
    for row in rows {
        if let Some(position) = row.iter().position(|&id| id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { id: row[position], position, vocab_size });
        }
    }
    if rows.iter().all(|row| row.is_empty()) { Err(Error::EmptyPrompt) } else { Ok(()) }
}

/// Token ids as an array (b, l), rows padded on the right with 0.
pub(crate) fn array(rows: &[&[u32]]) -> Array {
    let l = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let padding = |row: &[u32]| std::iter::repeat_n(0, l - row.len());
    let ids: Vec<u32> =
        rows.iter().flat_map(|row| row.iter().copied().chain(padding(row))).collect();
    Array::from_slice(&ids, &[rows.len() as i32, l as i32]) // (b, l)
}

/// The lengths (b,) of rows, int32; `None` if all are equally long.
pub(crate) fn lengths(rows: &[&[u32]]) -> Option<Array> {
    let lengths: Vec<i32> = rows.iter().map(|row| row.len() as i32).collect();
    let ragged = lengths.windows(2).any(|pair| pair[0] != pair[1]);
    ragged.then(|| Array::from_slice(&lengths, &[rows.len() as i32])) // (b,)
}
