//! The Muon optimizer: a matrix changes by its momentum, with all singular values made equal.
//!
//! With few steps, a mixer's projections learn more than with AdamW. Source: K. Jordan et al.,
//! Muon (2024), with the scale of Moonlight (arXiv 2502.16982), which allows AdamW's learning
//! rates.

use mlx_rs::ops::{addmm, concatenate, split_at_indices, sum_axes, swap_axes};
use mlx_rs::{Array, Dtype};

use crate::Result;

/// Newton-Schulz iterations, and the polynomial that they apply to the singular values.
const ITERATIONS: usize = 5;
const POLYNOMIAL: [f32; 3] = [3.4445, -4.775, 2.0315];

/// The momentum of the look ahead, and the root mean square of a step with learning rate 1.
pub(super) const MOMENTUM: f32 = 0.9;
const SIZE: f32 = 0.2;

/// A matrix that Muon changes, in blocks of rows.
#[derive(Debug)]
pub(super) struct Matrix {
    /// (r, c)
    pub(super) parameter: Array,
    /// The mean gradient as it would be after another one like the last (Nesterov), as
    /// [`AdamW`](super::AdamW) computes it with `beta1` = 0.9 and [`MOMENTUM`]: (r, c).
    pub(super) ahead: Array,
    /// The source of the rows that fill no block: (r, c).
    pub(super) others: Array,
}

/// Returns the steps of matrices of one shape (r, c) in blocks of `rows` rows, such as the rows of a
/// head; 0 is a single block. All blocks are changed by the same few operations, whose products are in
/// the dtype `products`: Muon's authors use bfloat16. There is no decay. Lazy.
///
/// # Errors
/// Those of MLX for shapes that differ.
pub(super) fn step(
    matrices: &[Matrix],
    rows: usize,
    lr: f64,
    products: Dtype,
) -> Result<Vec<Array>> {
    let Some(Matrix { parameter, .. }) = matrices.first() else { return Ok(Vec::new()) };
    let (r, c, k) = (parameter.dim(0), parameter.dim(1), matrices.len() as i32);
    let rows = if rows == 0 { r } else { rows as i32 };
    let blocks = r / rows;
    if blocks == 0 {
        return Ok(matrices.iter().map(|matrix| matrix.others.clone()).collect());
    }
    let whole = blocks * rows;
    let top = |array: &Array| -> Result<Array> {
        if whole == r {
            return Ok(array.clone());
        }
        Ok(split_at_indices(array, &[whole], 0)?.swap_remove(0)) // (blocks * rows, c)
    };
    let ahead: Vec<Array> =
        matrices.iter().map(|matrix| top(&matrix.ahead)).collect::<Result<_>>()?;
    let ahead = concatenate(&ahead, 0)?.reshape(&[k * blocks, rows, c])?;
    let size = lr * f64::from(SIZE * (rows.max(c) as f32).sqrt());
    let change = orthogonal(&ahead, size as f32, products)?.reshape(&[k, whole, c])?;
    let change = change.as_dtype(Dtype::Float32)?;
    let ends: Vec<i32> = (1..k).collect();
    let changes = split_at_indices(&change, &ends, 0)?; // (1, whole, c) each
    matrices
        .iter()
        .zip(changes)
        .map(|(Matrix { parameter, others, .. }, change)| {
            let changed = top(parameter)?.subtract(change.reshape(&[whole, c])?)?;
            if whole == r {
                return Ok(changed);
            }
            let rest = split_at_indices(others, &[whole], 0)?.swap_remove(1); // (r - whole, c)
            Ok(concatenate(&[changed, rest], 0)?)
        })
        .collect()
}

/// Approximates `size U V^T` of each matrix `U S V^T` in (k, r, c), in the dtype `products`: singular
/// values are between 0.7 and 1.2 of `size`.
fn orthogonal(matrices: &Array, size: f32, products: Dtype) -> Result<Array> {
    let length = sum_axes(&matrices.square()?, &[1, 2], true)?.sqrt()?; // (k, 1, 1)
    let mut x = matrices.divide(length.add(Array::from_f32(1e-7))?)?.as_dtype(products)?;
    let tall = x.dim(1) > x.dim(2);
    let [a, b, c] = POLYNOMIAL;
    for i in 1..=ITERATIONS {
        let scale = if i == ITERATIONS { size } else { 1.0 };
        let turned = swap_axes(&x, 1, 2)?;
        // The smaller of the two: x x^T (k, r, r) or x^T x (k, c, c).
        let square = if tall { turned.matmul(&x)? } else { x.matmul(&turned)? };
        let mixed = addmm(&square, &square, &square, c, b)?;
        let (left, right) = if tall { (&x, &mixed) } else { (&mixed, &x) };
        x = addmm(&x, left, right, scale, scale * a)?;
    }
    Ok(x)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::random;

    use super::*;

    fn floats(array: &Array) -> Vec<f32> {
        mlx_llamba::mlx::floats(array).unwrap()
    }

    #[test]
    fn singular_values_become_alike() {
        let key = random::key(1).unwrap();
        for shape in [[3, 5, 9], [2, 11, 4], [1, 6, 6]] {
            let x = random::normal::<f32>(&shape, None, None, &key).unwrap();
            // One direction much stronger than the others.
            let spread = Array::from_iter(
                (0..shape[2]).map(|i| if i == 0 { 30.0f32 } else { 1.0 }),
                &[shape[2]],
            );
            let x = x.multiply(spread).unwrap();
            for products in [Dtype::Float32, Dtype::Bfloat16] {
                alike(&x, products);
            }
        }
    }

    fn alike(x: &Array, products: Dtype) {
        let y = orthogonal(x, 2.0, products).unwrap();
        assert_eq!((y.shape(), y.dtype()), (x.shape(), products));
        let y = y.as_dtype(Dtype::Float32).unwrap().multiply(Array::from_f32(0.5)).unwrap();
        let turned = swap_axes(&y, 1, 2).unwrap();
        let gram = if x.dim(1) > x.dim(2) { turned.matmul(&y) } else { y.matmul(&turned) };
        let gram = gram.unwrap();
        let n = gram.dim(1) as usize;
        for (i, value) in floats(&gram).into_iter().enumerate() {
            let (row, column) = (i / n % n, i % n);
            if row == column {
                assert!((0.3..1.6).contains(&value), "{:?} {row}: {value}", x.shape());
            } else {
                assert!(value.abs() < 0.5, "{:?} {row} {column}: {value}", x.shape());
            }
        }
        // It still points where it did.
        let along = floats(&x.multiply(&y).unwrap().sum(None).unwrap())[0];
        assert!(along > 0.0);
    }

    #[test]
    fn blocks_are_matrices_of_their_own_and_the_rest_is_left() {
        let key = |seed| random::key(seed).unwrap();
        let draw = |seed| random::normal::<f32>(&[7, 4], None, None, &key(seed)).unwrap();
        let matrix = |seed| Matrix {
            parameter: draw(seed),
            ahead: draw(seed + 10),
            others: Array::zeros::<f32>(&[7, 4]).unwrap(),
        };
        let matrices = [matrix(2), matrix(3), matrix(4)];
        let all = step(&matrices, 3, 0.01, Dtype::Float32).unwrap();
        assert_eq!(all.len(), 3);
        for (Matrix { parameter, ahead, others }, all) in matrices.iter().zip(all) {
            let all = floats(&all);
            assert_eq!(all[24..], [0.0; 4], "rows that fill no block");
            let second =
                |array: &Array| split_at_indices(array, &[3, 6], 0).unwrap().swap_remove(1);
            let [parameter, ahead, others] = [parameter, ahead, others].map(second);
            let old = floats(&parameter);
            let alone = [Matrix { parameter, ahead, others }];
            let alone = step(&alone, 0, 0.01, Dtype::Float32).unwrap();
            let alone = floats(&alone[0]);
            for (found, expected) in all[12..24].iter().zip(&alone) {
                assert!((found - expected).abs() < 1e-6);
            }
            // Root mean square of the change: 0.01 * 0.2, whatever the gradient's size, roughly.
            let change: f32 = old.iter().zip(&alone).map(|(a, b)| (a - b).powi(2)).sum();
            let size = (change / 12.0).sqrt();
            assert!((0.0010..0.0025).contains(&size), "{size}");
        }
    }
}
