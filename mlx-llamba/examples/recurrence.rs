//! The recurrence of Discrete-Mamba-2: three tokens by hand, then by the library.
//!
//! `cargo run --example recurrence`
//!
//! One head of dimension p = 1 with a state of n = 2, a convolution of width 1, an open gate:
//!
//! - `a_t = sigmoid(-A_log_t)`: the decay of the state,
//! - `H_t = a_t H_{t-1} + x_t B_t`: the state decays and the token is added in the direction of B,
//! - `y_t = H_t · C_t + D x_t`: the state is read in the direction of C, plus a skip connection.

#![allow(non_snake_case)]

use mlx_llamba_kernels::{Activation, Backend, Dims, MixerInput, MixerState, MixerWeights};
use mlx_rs::{Array, Dtype};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let x = [1.0f32, 2.0, 3.0];
    let B = [[1.0f32, 0.0], [0.0, 1.0], [1.0, 1.0]];
    let C = [[1.0f32, 0.0], [1.0, 0.0], [1.0, 1.0]];
    let A_log = [0.0f32, 0.0, 1.0];
    let (D, z) = (0.5f32, 100.0f32); // silu(100) = 100: the gate multiplies by a known number

    let mut H = [0.0f32; 2];
    let mut by_hand = Vec::new();
    for t in 0..3 {
        let a = 1.0 / (1.0 + A_log[t].exp());
        for (H, B) in H.iter_mut().zip(B[t]) {
            *H = a * *H + x[t] * B;
        }
        let y = H[0] * C[t][0] + H[1] * C[t][1] + D * x[t];
        println!("t = {t}   a = {a:.3}   H = {H:?}   y = {y:.4}");
        by_hand.push(y * z);
    }

    // The same through the library: a row is `x B C | z | A_log`, as in_proj gives it.
    let dims = Dims { h: 1, g: 1, p: 1, n: 2, k: 1 };
    let rows: Vec<f32> =
        (0..3).flat_map(|t| [x[t], B[t][0], B[t][1], C[t][0], C[t][1], z, A_log[t]]).collect();
    let weights = MixerWeights {
        conv_weight: Array::from_slice(&[1.0f32; 5], &[5, 1]),
        conv_bias: None,
        z_bias: None,
        D: Array::from_slice(&[D], &[1]),
    };
    let rows = Array::from_slice(&rows, &[1, 3, 7]); // (b, l, in_proj_dim)
    let state = MixerState::zeros(1, dims, Dtype::Float32)?;
    let input = MixerInput::new(&rows);
    let mixed = Backend::select(Dtype::Float32)?.mixer(
        &input,
        &state,
        &weights,
        dims,
        Activation::Identity,
    )?;
    println!("\nby hand:     y * z = {by_hand:?}");
    println!("mlx-llamba:  y * z = {:?}", mlx_llamba::mlx::floats(&mixed.y)?);
    println!("mlx-llamba:  H     = {:?}", mlx_llamba::mlx::floats(&mixed.state.ssm)?);
    Ok(())
}
