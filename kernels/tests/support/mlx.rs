//! Cases in MLX's graph, on a back end of this machine.

use mlx_llamba_kernels::{Backend, MixerInput, MixerState, MixerWeights};
use mlx_rs::ops::{concatenate, split_at_indices};
use mlx_rs::{Array, Dtype};

use super::{Case, Data, Found};

/// Returns an array whose dtype holds the values exactly.
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

/// Runs a case on `backend` in one call.
pub fn on(backend: Backend, case: &Case, data: &Data) -> Found {
    in_pieces(backend, case, data, &[])
}

/// Runs a case on `backend` in calls that end at `cuts` and at the end; a case with lengths in one
/// call only.
pub fn in_pieces(backend: Backend, case: &Case, data: &Data, cuts: &[usize]) -> Found {
    let (dims, b, l, of) = (case.dims, case.lengths.len(), case.l, case.dtype);
    let (h, width) = (dims.h, dims.in_proj_dim());
    let rows = array(of, &[b, l, width], &data.rows);
    let lengths: Vec<i32> = case.lengths.iter().map(|&l| l as i32).collect();
    let lengths = case.ragged.then(|| Array::from_slice(&lengths, &[b as i32]));
    assert!(lengths.is_none() || cuts.is_empty());
    let starts = case.start_flags();
    let starts = starts.map(|starts| Array::from_slice(&starts, &[b as i32, l as i32]));
    let weights = weights(case, data);
    let mut state = state(case, data);
    let (mut y, mut start) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([l]) {
        let cut = |array: &Array| {
            split_at_indices(array, &[start as i32, end as i32], 1).unwrap().swap_remove(1)
        };
        let (piece, starts) = (cut(&rows), starts.as_ref().map(cut));
        let (piece, A_log) = if case.split_A_log {
            let mut parts = split_at_indices(&piece, &[(width - h) as i32], -1).unwrap();
            let A_log = parts.pop();
            (parts.pop().unwrap(), A_log)
        } else {
            (piece, None)
        };
        let input = MixerInput {
            rows: &piece,
            A_log: A_log.as_ref(),
            lengths: lengths.as_ref(),
            starts: starts.as_ref(),
        };
        let mixed = backend.mixer(&input, &state, &weights, dims, case.activation).unwrap();
        assert_eq!(mixed.y.dtype(), of);
        assert_eq!(mixed.state.ssm.dtype(), Dtype::Float32);
        y.push(mixed.y);
        (state, start) = (mixed.state, end);
    }
    let y = concatenate(&y, 1).unwrap();
    Found { y: values(&y), conv: values(&state.conv), ssm: values(&state.ssm) }
}

/// Returns the state before the first token.
pub fn state(case: &Case, data: &Data) -> MixerState {
    let (dims, b) = (case.dims, data.states.len());
    let conv: Vec<f64> = data.states.iter().flat_map(|s| s.conv.clone()).collect();
    let ssm: Vec<f64> = data.states.iter().flat_map(|s| s.ssm.clone()).collect();
    MixerState {
        conv: array(case.dtype, &[b, dims.k - 1, dims.conv_dim()], &conv),
        ssm: array(Dtype::Float32, &[b, dims.h, dims.p, dims.n], &ssm),
    }
}

pub fn weights(case: &Case, data: &Data) -> MixerWeights {
    let (dims, of, weights) = (case.dims, case.dtype, &data.weights);
    MixerWeights {
        conv_weight: array(of, &[dims.conv_dim(), dims.k], &weights.conv_weight),
        conv_bias: case.conv_bias.then(|| array(of, &[dims.conv_dim()], &weights.conv_bias)),
        z_bias: case.z_bias.then(|| array(of, &[dims.d_inner()], &weights.z_bias)),
        D: array(Dtype::Float32, &[dims.h], &weights.D),
    }
}
