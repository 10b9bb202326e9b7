//! Matrix multiplication with weights as checkpoints store them.

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::raw;
use crate::{Activations, Mode, Scheme, Weight};

/// Checks that there is a kernel for a quantization scheme.
///
/// # Errors
/// The reason why there is none, as a text.
pub fn supports(scheme: &Scheme) -> std::result::Result<(), &'static str> {
    match scheme.mode {
        Mode::Affine => Ok(()),
        _ => Err("the CPU kernels read affine quantization only"),
    }
}

/// Multiplies by a transposed weight: `x (.., in) f32 -> x W^T (.., out) f32`. Lazy.
///
/// | weight | dtype |
/// |---|---|
/// | dense (out, in) | f32, f16, bf16 |
/// | affine quantized, 2 to 6 or 8 bits, groups of 32, 64 or 128 | scales and biases f32, f16 or bf16 |
///
/// # Errors
/// A wrong shape or dtype.
pub fn matmul(x: &Array, weight: &Weight) -> Result<Array> {
    matmul_with(x, weight, Activations::Float32)
}

/// As [`matmul`]; with [`Activations::Int8`], `x` is rounded first where the weight has codes of 4
/// or 8 bits.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_with(x: &Array, weight: &Weight, activations: Activations) -> Result<Array> {
    let int8 = activations == Activations::Int8;
    let bad = |what: String| Err(Exception::custom(format!("CPU matmul: {what}")));
    if x.dtype() != Dtype::Float32 {
        return bad(format!("x is {:?}, expected Float32", x.dtype()));
    }
    let Some(&columns) = x.shape().last() else { return bad("x has no axes".into()) };
    let float =
        |array: &Array| matches!(array.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    match weight {
        Weight::Dense(w) => {
            if !float(w) {
                return bad(format!("the weight is {:?}, expected a float dtype", w.dtype()));
            }
            if w.shape().len() != 2 || w.shape()[1] != columns {
                let (x, w) = (x.shape(), w.shape());
                return bad(format!("x {x:?} does not fit the weight {w:?}, which is (out, in)"));
            }
            raw::matmul(x, w, None, None, (0, 0), false)
        }
        Weight::Quantized(q) => {
            let Some(biases) = q.biases.as_ref().filter(|_| supports(&q.scheme).is_ok()) else {
                return bad(format!("mode {} is not supported", q.scheme.mode));
            };
            let group = q.scheme.group_size;
            let packed = match q.scheme.packed_columns(columns.max(0) as usize) {
                Ok(packed) => packed as i32,
                Err(error) => return bad(error.to_string()),
            };
            let (weight, scales) = (q.weight.shape(), q.scales.shape());
            if weight.len() != 2
                || q.weight.dtype() != Dtype::Uint32
                || weight[1] != packed
                || scales != [weight[0], columns / group as i32]
                || biases.shape() != scales
                || !float(&q.scales)
                || biases.dtype() != q.scales.dtype()
            {
                return bad(format!(
                    "x {:?} does not fit the weight {weight:?} {:?} with scales {scales:?} {:?} and \
                     biases {:?} {:?}, {} bits in groups of {group}",
                    x.shape(),
                    q.weight.dtype(),
                    q.scales.dtype(),
                    biases.shape(),
                    biases.dtype(),
                    q.scheme.bits,
                ));
            }
            let (scales, biases) = (Some(&q.scales), Some(biases));
            raw::matmul(x, &q.weight, scales, biases, (q.scheme.bits, group), int8)
        }
    }
}
