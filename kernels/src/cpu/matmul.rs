//! Matrix multiplication with weights as checkpoints store them.

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::raw::{self, Coding};
use crate::{Activations, Mode, Packed, Quantized, Scheme, Weight};

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
/// Codes of 4 and 8 bits that are not [packed](crate::Backend::arrange) are packed at each call.
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
    match weight {
        Weight::Dense(w) => {
            if !is_float(w) {
                return bad(format!("the weight is {:?}, expected a float dtype", w.dtype()));
            }
            if w.shape().len() != 2 || w.shape()[1] != columns {
                let (x, w) = (x.shape(), w.shape());
                return bad(format!("x {x:?} does not fit the weight {w:?}, which is (out, in)"));
            }
            raw::matmul(x, [w], Coding::default(), false)
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
                || !is_float(&q.scales)
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
            if let Weight::Packed(packed) = arrange(q.clone())? {
                return raw::matmul(x, packed.arrays(), coding(&packed), int8);
            }
            let coding = Coding { bits: q.scheme.bits, group, packed: 0 };
            raw::matmul(x, [&q.weight, &q.scales, biases], coding, false)
        }
        Weight::Packed(packed) => {
            let (out, within) = packed.shape();
            if columns as usize != within {
                return bad(format!("x {:?} does not fit the weight [{out}, {within}]", x.shape()));
            }
            raw::matmul(x, packed.arrays(), coding(packed), int8)
        }
    }
}

/// Packs a matrix of affine codes of 4 or 8 bits; others stay as they are. Lazy.
pub(super) fn arrange(weight: Quantized) -> Result<Weight> {
    let Quantized { weight: codes, scales, biases: Some(biases), scheme } = &weight else {
        return Ok(Weight::Quantized(weight));
    };
    if !Packed::takes(scheme) || !is_float(scales) || scales.dtype() != biases.dtype() {
        return Ok(Weight::Quantized(weight));
    }
    let parts = [raw::pack(codes)?, raw::pack(scales)?, raw::pack(biases)?];
    Ok(Weight::Packed(Packed::new(parts, *scheme, codes.dim(0) as usize)))
}

/// Looks up the rows `ids` (..) u32 of a packed matrix, dequantized: (.., in) f32. Ids past the last row
/// read the last. Lazy.
///
/// # Errors
/// If memory runs out.
pub(crate) fn rows(ids: &Array, weight: &Packed) -> Result<Array> {
    raw::rows(ids, weight.arrays(), coding(weight))
}

pub(super) fn coding(packed: &Packed) -> Coding {
    let Scheme { bits, group_size, .. } = packed.scheme();
    Coding { bits, group: group_size, packed: packed.shape().0 }
}

pub(super) fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}
