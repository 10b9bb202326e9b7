//! Comparison with the oracle's results.

use super::{Case, Data};

/// The results of a back end, row-major.
#[derive(PartialEq)]
pub struct Found {
    /// (b, l, d_inner)
    pub y: Vec<f64>,
    /// (b, k-1, conv_dim)
    pub conv: Vec<f64>,
    /// (b, h, p, n)
    pub ssm: Vec<f64>,
}

/// Returns the parts of `found` that have a meaning, each with its name and the oracle's values.
fn parts<'a>(case: &Case, found: &'a Found, data: &'a Data) -> Vec<(String, &'a [f64], &'a [f64])> {
    let dims = case.dims;
    let sizes = [case.l * dims.d_inner(), (dims.k - 1) * dims.conv_dim(), dims.h * dims.p * dims.n];
    let mut parts = Vec::new();
    for (row, (y, state)) in data.y.iter().zip(&data.after).enumerate() {
        let of = |all: &'a [f64], size: usize, len: usize| &all[row * size..][..len];
        parts.push((format!("y of row {row}"), of(&found.y, sizes[0], y.len()), &y[..]));
        let conv = of(&found.conv, sizes[1], state.conv.len());
        parts.push((format!("conv state of row {row}"), conv, &state.conv[..]));
        let ssm = of(&found.ssm, sizes[2], state.ssm.len());
        parts.push((format!("ssm state of row {row}"), ssm, &state.ssm[..]));
    }
    parts
}

/// Returns the largest absolute value, at least 1.
pub fn scale_of(expected: &[f64]) -> f64 {
    expected.iter().fold(1.0, |m, v| m.max(v.abs()))
}

/// Asserts that outputs and states equal the oracle's, within `tolerance` of the largest value.
pub fn check(case: &Case, found: &Found, data: &Data, tolerance: f64) {
    for (what, found, expected) in parts(case, found, data) {
        let allowed = tolerance * scale_of(expected);
        assert_close(&format!("{what} of {case:?}"), found, expected, allowed);
    }
}

/// Returns the largest errors of y and of the states, relative to the largest values.
pub fn error_of(case: &Case, found: &Found, data: &Data) -> [f64; 2] {
    let mut errors = [0.0f64; 2];
    for (what, found, expected) in parts(case, found, data) {
        let error = found.iter().zip(expected).fold(0.0f64, |m, (f, e)| m.max((f - e).abs()));
        let place = &mut errors[usize::from(!what.starts_with('y'))];
        *place = place.max(error / scale_of(expected));
    }
    errors
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
