//! A case in MLX's graph, on a back end that this machine has.

use mlx_llamba_kernels::{Backend, MixerInput, MixerState, MixerWeights};
use mlx_rs::{Array, Dtype};

use super::{Case, Data, Found};

/// An array whose dtype holds the values exactly.
pub fn array(of: Dtype, shape: &[usize], values: &[f64]) -> Array {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&s| s as i32).collect();
    Array::from_slice(&values, &shape).as_dtype(of).unwrap()
}

pub fn values(array: &Array) -> Vec<f64> {
    if array.size() == 0 {
        return Vec::new();
    }
    let array = array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    array.to_vec_exact::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Runs a case on `backend`.
pub fn on(backend: Backend, case: &Case, data: &Data) -> Found {
    let (dims, b, l, of) = (case.dims, case.lengths.len(), case.l, case.dtype);
    let (h, width) = (dims.h, dims.in_proj_dim());
    let rows = array(of, &[b, l, width], &data.rows);
    let (rows, A_log) = if case.split_A_log {
        let mut parts = mlx_rs::ops::split_at_indices(&rows, &[(width - h) as i32], -1).unwrap();
        let A_log = parts.pop();
        (parts.pop().unwrap(), A_log)
    } else {
        (rows, None)
    };
    let lengths: Vec<i32> = case.lengths.iter().map(|&l| l as i32).collect();
    let lengths = case.ragged.then(|| Array::from_slice(&lengths, &[b as i32]));
    let conv: Vec<f64> = data.states.iter().flat_map(|s| s.conv.clone()).collect();
    let ssm: Vec<f64> = data.states.iter().flat_map(|s| s.ssm.clone()).collect();
    let (conv_dim, k) = (dims.conv_dim(), dims.k);
    let state = MixerState {
        conv: array(of, &[b, k - 1, conv_dim], &conv),
        ssm: array(Dtype::Float32, &[b, h, dims.p, dims.n], &ssm),
    };
    let weights = &data.weights;
    let weights = MixerWeights {
        conv_weight: array(of, &[conv_dim, k], &weights.conv_weight),
        conv_bias: case.conv_bias.then(|| array(of, &[conv_dim], &weights.conv_bias)),
        z_bias: case.z_bias.then(|| array(of, &[dims.d_inner()], &weights.z_bias)),
        D: array(Dtype::Float32, &[h], &weights.D),
    };
    let input = MixerInput { rows: &rows, A_log: A_log.as_ref(), lengths: lengths.as_ref() };
    let mixed = backend.mixer(&input, &state, &weights, dims, case.activation).unwrap();
    assert_eq!(mixed.y.dtype(), of);
    Found { y: values(&mixed.y), conv: values(&mixed.state.conv), ssm: values(&mixed.state.ssm) }
}
