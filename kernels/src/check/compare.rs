//! Comparison with the oracle's results.

use super::{Case, Data};

/// The results of a back end, row-major.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// (b, l, d_inner)
    pub y: Vec<f64>,
    /// (b, k-1, conv_dim)
    pub conv: Vec<f64>,
    /// (b, h, p, n)
    pub ssm: Vec<f64>,
}

/// Returns the parts of `found` that have a meaning, each with its name and the oracle's values.
pub fn parts<'a>(
    case: &Case,
    found: &'a Found,
    data: &'a Data,
) -> Vec<(String, &'a [f64], &'a [f64])> {
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

/// Returns the largest error relative to the largest value; infinity for NaN and for a wrong number
/// of values.
pub(super) fn error(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = found.iter().zip(expected).fold(0.0f64, |most, (f, e)| {
        let error = (f - e).abs();
        if error.is_nan() { f64::INFINITY } else { most.max(error) }
    });
    largest / scale_of(expected)
}

/// Returns the largest errors of y and of the states, relative to the largest values.
pub fn error_of(case: &Case, found: &Found, data: &Data) -> [f64; 2] {
    let mut errors = [0.0f64; 2];
    for (what, found, expected) in parts(case, found, data) {
        let place = &mut errors[usize::from(!what.starts_with('y'))];
        *place = place.max(error(found, expected));
    }
    errors
}
