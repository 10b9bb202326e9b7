//! The cases of every back end, run in one call or in pieces, and their assertions.

// Every test takes a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

use mlx_llamba_kernels::check::{self, parts};
pub use mlx_llamba_kernels::check::{
    Arrays, Case, Data, Found, Ring, Values, documents, error_of, published, ragged, rings,
    scale_of, steps, tokens,
};
use mlx_llamba_kernels::{Backend, Mixed, MixerInput, MixerState, MixerWeights};
use mlx_rs::ops::{concatenate, split_at_indices};
use mlx_rs::{Array, Dtype};

/// Returns an array whose dtype holds the values exactly.
pub fn array(of: Dtype, shape: &[usize], values: &[f64]) -> Array {
    check::array(of, shape, values).unwrap()
}

pub fn values(array: &Array) -> Vec<f64> {
    check::values(array).unwrap()
}

/// Returns the state before the first token.
pub fn state(case: &Case, data: &Data) -> MixerState {
    Arrays::new(case, data).unwrap().state
}

pub fn weights(case: &Case, data: &Data) -> MixerWeights {
    Arrays::new(case, data).unwrap().weights
}

/// Runs a case on `backend` in one call.
pub fn on(backend: Backend, case: &Case, data: &Data) -> Found {
    in_pieces(backend, case, data, &[])
}

/// Runs a case on `backend` in calls that end at `cuts` and at the end; a case with lengths in one
/// call only.
pub fn in_pieces(backend: Backend, case: &Case, data: &Data, cuts: &[usize]) -> Found {
    let arrays = Arrays::new(case, data).unwrap();
    assert!(arrays.lengths.is_none() || cuts.is_empty());
    let mut state = arrays.state.clone();
    let (mut y, mut start) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([case.l]) {
        let cut = |array: &Array| {
            split_at_indices(array, &[start as i32, end as i32], 1).unwrap().swap_remove(1)
        };
        let (piece, A_log) = (cut(&arrays.rows), arrays.A_log.as_ref().map(cut));
        let starts = arrays.starts.as_ref().map(cut);
        let input = MixerInput {
            rows: &piece,
            A_log: A_log.as_ref(),
            lengths: arrays.lengths.as_ref(),
            starts: starts.as_ref(),
        };
        let (weights, dims) = (&arrays.weights, case.dims);
        let mixed = backend.mixer(&input, &state, weights, dims, case.activation).unwrap();
        assert_eq!(mixed.y.dtype(), case.dtype);
        assert_eq!(mixed.state.ssm.dtype(), Dtype::Float32);
        y.push(mixed.y);
        (state, start) = (mixed.state, end);
    }
    Found::of(&Mixed { y: concatenate(&y, 1).unwrap(), state }).unwrap()
}

/// Asserts that outputs and states equal the oracle's, within `tolerance` of the largest value.
pub fn check(case: &Case, found: &Found, data: &Data, tolerance: f64) {
    for (what, found, expected) in parts(case, found, data) {
        let allowed = tolerance * scale_of(expected);
        assert_close(&format!("{what} of {case:?}"), found, expected, allowed);
    }
}

/// Compares; a failure prints the first five mismatches.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let bad: Vec<_> = found
        .iter()
        .zip(expected)
        .enumerate()
        .filter(|(_, (f, e))| f.is_nan() || (**f - **e).abs() > allowed)
        .take(5)
        .map(|(i, (f, e))| format!("[{i}] {f} instead of {e}"))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}
