//! Small arrays of numbers that the host gives to kernels.

use std::cell::RefCell;
use std::collections::BTreeMap;

use mlx_rs::Array;

/// The arrays that are kept at most: learning rates change with every step.
const KEPT: usize = 256;

/// Returns `values` as a flat array, the same one for the same values: memory of the host moves to a GPU when the
/// GPU first reads it, which takes longer than most kernels.
pub(super) fn floats(values: &[f32]) -> Array {
    let key = values.iter().map(|value| i64::from(value.to_bits())).collect();
    kept(key, || Array::from_slice(values, &[values.len() as i32]))
}

/// [`floats`] of integers.
pub(super) fn integers(values: &[i32]) -> Array {
    // No bits of a float are negative.
    let key = values.iter().map(|&value| -1 - i64::from(value as u32)).collect();
    kept(key, || Array::from_slice(values, &[values.len() as i32]))
}

fn kept(key: Vec<i64>, make: impl FnOnce() -> Array) -> Array {
    thread_local! {
        static ARRAYS: RefCell<BTreeMap<Vec<i64>, Array>> = const { RefCell::new(BTreeMap::new()) };
    }
    ARRAYS.with_borrow_mut(|arrays| {
        if arrays.len() >= KEPT && !arrays.contains_key(&key) {
            arrays.clear();
        }
        arrays.entry(key).or_insert_with(make).clone()
    })
}
