//! MLX 0.32.2 computes a scan over strided memory on a GPU with writes past its output: no scan of
//! ours may be one, in a forward pass or in a gradient.

#![allow(non_snake_case, clippy::unwrap_used)]

use mlx_llamba_kernels::{
    Activation, Backend, Dims, MixerInput, MixerState, MixerWeights, scan::cumsum,
};
use mlx_llamba_tests::graph::scans;
use mlx_rs::ops::{arange, full, ones, sum};
use mlx_rs::transforms::{eval, value_and_grad_with_argnums};
use mlx_rs::{Array, Dtype, random};

const DIMS: Dims = Dims { h: 6, g: 3, p: 5, n: 7, k: 4 };

fn normal(shape: &[i32]) -> Array {
    random::normal::<f32>(shape, None, None, None).unwrap()
}

fn weights() -> MixerWeights {
    MixerWeights {
        conv_weight: normal(&[DIMS.conv_dim() as i32, 4]),
        conv_bias: None,
        z_bias: None,
        D: normal(&[6]),
    }
}

#[test]
fn scans_run_over_contiguous_rows_forward_and_backward() {
    for l in [1, 37, 130] {
        let starts = Array::from_iter((0..2 * l).map(|t| t % 9 == 4), &[2, l]);
        let lengths = Array::from_slice(&[l, (l + 1) / 2], &[2]);
        let (weights, state) = (weights(), MixerState::zeros(2, DIMS, Dtype::Float32).unwrap());
        let values = |rows: &Array| {
            let input = MixerInput {
                starts: Some(&starts),
                lengths: Some(&lengths),
                ..MixerInput::new(rows)
            };
            let how = Activation::Identity;
            let mixed = Backend::PLAIN.mixer(&input, &state, &weights, DIMS, how).unwrap();
            let T = Backend::PLAIN.mixing_matrix(&input, &weights, DIMS, how).unwrap();
            vec![mixed.y, mixed.state.ssm, T]
        };
        let rows = normal(&[2, l, DIMS.in_proj_dim() as i32]);
        let (forward, not_safe) = scans(&values(&rows));
        assert_eq!(not_safe, 0, "of {forward} forward at l = {l}");

        let loss = |x: &[Array]| {
            let mut total = Array::from_f32(0.0);
            for value in values(&x[0]) {
                total = total.add(sum(value.square()?, None)?)?;
            }
            Ok(vec![total])
        };
        let (value, gradient) = value_and_grad_with_argnums(loss, &[0][..])(&[rows]).unwrap();
        let (both, not_safe) = scans(&[value, gradient].concat());
        assert_eq!(not_safe, 0, "of {both} forward and backward at l = {l}");
        if l > 1 {
            assert!(both > forward && forward > 3, "{forward} forward, {both} in all");
        }
    }
}

/// On the default device: see it fail on a GPU with `mlx_rs::ops::cumsum` in place of ours.
#[test]
fn scans_leave_other_arrays_alone() {
    for (b, l, h) in [(2, 37, 32), (4, 21, 32), (1, 130, 9), (3, 64, 9), (8, 63, 32), (2, 256, 32)]
    {
        let q = l.min(64);
        let chunks = (l + q - 1) / q;
        let size = b * chunks * q * h;
        let x = ones::<f32>(&[b, chunks * q, h]).unwrap();
        let full = |value: usize| full::<f32>(&[size], Array::from_f32(value as f32)).unwrap();
        let mut canaries: Vec<_> = (0..64).map(full).collect();
        eval(canaries.iter().chain([&x])).unwrap();
        // The scan gets the memory that this one leaves.
        canaries.swap_remove(8);
        let view = x.reshape(&[b, chunks, q, h]).unwrap().transpose_axes(&[0, 1, 3, 2]).unwrap();
        let sums = cumsum(&view).unwrap(); // (b, c, h, q)
        let expected = arange::<_, f32>(1, q + 1, None).unwrap();
        assert!(all(&sums.eq(&expected).unwrap()), "sums at {b}, {l}, {h}");
        for canary in &canaries {
            let first = canary.take_axis(Array::from_int(0), 0).unwrap();
            let whole = first.eq(canary).unwrap();
            assert!(all(&whole), "an array was overwritten at {b}, {l}, {h}");
        }
    }
}

fn all(mask: &Array) -> bool {
    mask.all(None).unwrap().item_exact::<bool>()
}
