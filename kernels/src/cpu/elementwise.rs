//! The small operations between matrix multiplications.

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::raw;

/// Computes `silu(gate) * up` of `gate_up (.., 2m) f32`, gate first, to (.., m). Lazy.
///
/// # Errors
/// A wrong shape or dtype.
pub fn swiglu(gate_up: &Array) -> Result<Array> {
    match gate_up.shape().last() {
        Some(last) if last % 2 == 0 && gate_up.dtype() == Dtype::Float32 => raw::swiglu(gate_up),
        _ => Err(Exception::custom(format!(
            "CPU swiglu: found {:?} {:?}, expected (.., 2m) Float32",
            gate_up.shape(),
            gate_up.dtype(),
        ))),
    }
}

/// Computes `silu(gate) * up` of two arrays (.., m) f32. Lazy; has gradients, as [`swiglu`] has.
///
/// # Errors
/// A wrong shape or dtype.
pub fn gate(gate: &Array, up: &Array) -> Result<Array> {
    let float = |array: &Array| array.dtype() == Dtype::Float32;
    if gate.shape() != up.shape() || gate.ndim() == 0 || !float(gate) || !float(up) {
        return Err(Exception::custom(format!(
            "CPU gate: found {:?} {:?} and {:?} {:?}, expected the same (.., m) Float32",
            gate.shape(),
            gate.dtype(),
            up.shape(),
            up.dtype(),
        )));
    }
    raw::gate(gate, up)
}

/// Computes `e^x` of f32. Lazy; has a gradient.
///
/// # Errors
/// Another dtype.
pub fn exp(x: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float32 {
        return Err(Exception::custom(format!("CPU exp: x is {:?}, expected Float32", x.dtype())));
    }
    raw::exp(x)
}

/// Computes the softmax of `x (.., n) f32` over its last axis; scores of -inf give 0. Lazy; has a
/// gradient.
///
/// # Errors
/// A wrong shape or dtype.
pub fn softmax(x: &Array) -> Result<Array> {
    if x.ndim() == 0 || x.dtype() != Dtype::Float32 {
        return Err(Exception::custom(format!(
            "CPU softmax: found {:?} {:?}, expected (.., n) Float32",
            x.shape(),
            x.dtype(),
        )));
    }
    raw::softmax(x)
}

/// Computes `x + y`, and `(x + y) / sqrt(mean((x + y)^2) + epsilon) * weight`. Lazy.
///
/// | arg | shape | dtype |
/// |---|---|---|
/// | x, y | (.., d) | f32 |
/// | weight | (d,) | float |
///
/// # Errors
/// A wrong shape or dtype.
pub fn add_rms_norm(x: &Array, y: &Array, weight: &Array, epsilon: f32) -> Result<(Array, Array)> {
    if x.shape() != y.shape() || y.dtype() != Dtype::Float32 {
        return Err(Exception::custom(format!(
            "CPU add_rms_norm: y is {:?} {:?}, expected {:?} Float32",
            y.shape(),
            y.dtype(),
            x.shape(),
        )));
    }
    let weight = norm_weight(x, weight)?;
    let [sum, normed] = raw::add_rms_norm(x, y, &weight, epsilon)?;
    Ok((sum, normed))
}

/// Computes the norm of [`add_rms_norm`] without the addition, `x / sqrt(mean(x^2) + epsilon) *
/// weight`. Lazy.
///
/// # Errors
/// A wrong shape or dtype.
pub fn rms_norm(x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
    raw::rms_norm(x, &norm_weight(x, weight)?, epsilon)
}

/// Checks that the weight fits `x`, and casts it to float32.
fn norm_weight(x: &Array, weight: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float32
        || weight.shape().len() != 1
        || x.shape().last() != weight.shape().last()
    {
        return Err(Exception::custom(format!(
            "CPU rms norm: x is {:?} {:?}, expected (.., d) Float32 with the weight (d,), found {:?}",
            x.shape(),
            x.dtype(),
            weight.shape(),
        )));
    }
    if weight.dtype() == Dtype::Float32 {
        Ok(weight.clone())
    } else {
        weight.as_dtype(Dtype::Float32)
    }
}
