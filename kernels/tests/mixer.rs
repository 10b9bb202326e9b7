//! The mixer against the float64 oracle: outputs and both states, over random shapes.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

use mlx_llamba_kernels::oracle::{self, State, Weights};
use mlx_llamba_kernels::{Activation, Backend, CHUNK, Dims, MixerInput, MixerState, MixerWeights};
use mlx_rs::{Array, Dtype};
use proptest::prelude::*;

/// Largest error relative to the largest value; 3000 random cases stayed below 1e-6.
const TOLERANCE: f64 = 4e-6;

/// Deterministic values in -1..1 (SplitMix64).
struct Values(u64);

impl Values {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Rounded to float32, so that both sides see the same numbers.
    fn take(&mut self, len: usize, scale: f64) -> Vec<f64> {
        (0..len).map(|_| f64::from((self.next() * scale) as f32)).collect()
    }
}

#[derive(Debug, Clone)]
struct Case {
    dims: Dims,
    activation: Activation,
    lengths: Vec<usize>,
    A_log: f64,
    seed: u64,
}

/// A batch of rows with their own lengths, all data and what the oracle says of it.
struct Data {
    rows: Vec<Vec<f64>>,
    states: Vec<State>,
    weights: Weights,
}

impl Data {
    fn new(case: &Case) -> Self {
        let (mut values, dims) = (Values(case.seed), case.dims);
        let width = dims.in_proj_dim();
        let rows = case.lengths.iter().map(|&l| {
            let mut rows = values.take(l * width, 1.0);
            for row in rows.chunks_exact_mut(width) {
                let A_log = values.take(dims.h, case.A_log);
                row[width - dims.h..].copy_from_slice(&A_log);
            }
            rows
        });
        let rows = rows.collect();
        let states = case.lengths.iter().map(|_| State {
            conv: values.take((dims.k - 1) * dims.conv_dim(), 1.0),
            ssm: values.take(dims.h * dims.p * dims.n, 1.0),
        });
        let states = states.collect();
        let weights = Weights {
            conv_weight: values.take(dims.conv_dim() * dims.k, 1.0),
            conv_bias: values.take(dims.conv_dim(), 0.5),
            z_bias: values.take(dims.d_inner(), 1.0),
            D: values.take(dims.h, 1.0),
        };
        Self { rows, states, weights }
    }
}

fn array(data: &[f64], shape: &[usize]) -> Array {
    let data: Vec<f32> = data.iter().map(|&v| v as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&s| s as i32).collect();
    Array::from_slice(&data, &shape)
}

fn mlx_weights(weights: &Weights, dims: Dims) -> MixerWeights {
    MixerWeights {
        conv_weight: array(&weights.conv_weight, &[dims.conv_dim(), dims.k]),
        conv_bias: Some(array(&weights.conv_bias, &[dims.conv_dim()])),
        z_bias: Some(array(&weights.z_bias, &[dims.d_inner()])),
        D: array(&weights.D, &[dims.h]),
    }
}

fn mlx_state(states: &[State], dims: Dims) -> MixerState {
    let conv: Vec<f64> = states.iter().flat_map(|s| s.conv.clone()).collect();
    let ssm: Vec<f64> = states.iter().flat_map(|s| s.ssm.clone()).collect();
    MixerState {
        conv: array(&conv, &[states.len(), dims.k - 1, dims.conv_dim()]),
        ssm: array(&ssm, &[states.len(), dims.h, dims.p, dims.n]),
    }
}

/// Compares and prints the first five mismatches.
fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    let bad: Vec<_> = found
        .iter()
        .zip(expected)
        .enumerate()
        .filter(|(_, (f, e))| f.is_nan() || (f64::from(**f) - **e).abs() > TOLERANCE * scale)
        .take(5)
        .map(|(i, (f, e))| format!("[{i}] {f} instead of {e}"))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

fn values(array: &Array) -> Vec<f32> {
    assert_eq!(array.dtype(), Dtype::Float32);
    let array = array.contiguous().unwrap();
    if array.size() == 0 { vec![] } else { array.to_vec_exact().unwrap() }
}

/// Runs the case in pieces cut at `cuts` (rows of equal length) or ragged in one go.
fn check(case: &Case, cuts: &[usize]) {
    let (dims, data) = (case.dims, Data::new(case));
    let width = dims.in_proj_dim();
    let mut states = data.states.clone();
    let expected: Vec<Vec<f64>> = data
        .rows
        .iter()
        .zip(&mut states)
        .map(|(rows, state)| oracle::mixer(rows, state, &data.weights, dims, case.activation))
        .collect();

    let longest = *case.lengths.iter().max().unwrap();
    let ragged = case.lengths.iter().any(|&l| l != longest);
    // Padding holds numbers, not zeros: it must not matter.
    let padded: Vec<f64> = data
        .rows
        .iter()
        .flat_map(|rows| {
            let mut rows = rows.clone();
            rows.resize(longest * width, 0.75);
            rows
        })
        .collect();
    let rows = array(&padded, &[case.lengths.len(), longest, width]);
    let lengths: Vec<i32> = case.lengths.iter().map(|&l| l as i32).collect();
    let lengths = ragged.then(|| Array::from_slice(&lengths, &[lengths.len() as i32]));

    let weights = mlx_weights(&data.weights, dims);
    let mut state = mlx_state(&data.states, dims);
    let mut y = Vec::new();
    let ends = cuts.iter().copied().chain([longest]);
    let mut start = 0;
    for end in ends {
        let piece = mlx_rs::ops::split_at_indices(&rows, &[start as i32, end as i32], 1).unwrap();
        let input = MixerInput { lengths: lengths.as_ref(), ..MixerInput::new(&piece[1]) };
        let mixed = Backend::Plain.mixer(&input, &state, &weights, dims, case.activation).unwrap();
        y.push(mixed.y);
        state = mixed.state;
        start = end;
    }
    let y = values(&mlx_rs::ops::concatenate(&y, 1).unwrap());
    let per_row = longest * dims.d_inner();
    for (row, expected) in expected.iter().enumerate() {
        assert_close(&format!("y of row {row}"), &y[row * per_row..][..expected.len()], expected);
    }
    let conv: Vec<f64> = states.iter().flat_map(|s| s.conv.clone()).collect();
    let ssm: Vec<f64> = states.iter().flat_map(|s| s.ssm.clone()).collect();
    assert_close("conv state", &values(&state.conv), &conv);
    assert_close("ssm state", &values(&state.ssm), &ssm);
}

/// Lengths around the borders of chunks, and everything small.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1..12usize,
        2 => CHUNK - 2..CHUNK + 3,
        1 => 2 * CHUNK - 1..2 * CHUNK + 2,
        1 => Just(3 * CHUNK + 5),
    ]
}

fn case(batch: impl Strategy<Value = Vec<usize>>) -> impl Strategy<Value = Case> {
    let dims = (1..4usize, 1..4usize, 1..9usize, 1..40usize, 1..6usize)
        .prop_map(|(g, r, p, n, k)| Dims { h: g * r, g, p, n, k });
    let activation = prop_oneof![Just(Activation::Identity), Just(Activation::Silu)];
    let A_log = prop_oneof![Just(0.5), Just(6.0), Just(60.0)];
    (dims, activation, batch, A_log, any::<u64>()).prop_map(
        |(dims, activation, lengths, A_log, seed)| Case { dims, activation, lengths, A_log, seed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn one_go_equals_the_oracle(case in case((length(), 1..4usize).prop_map(|(l, b)| vec![l; b]))) {
        check(&case, &[]);
    }

    #[test]
    fn every_cut_equals_the_oracle(
        case in case((2..2 * CHUNK, 1..3usize).prop_map(|(l, b)| vec![l; b])),
        cut in any::<prop::sample::Index>(),
    ) {
        check(&case, &[1 + cut.index(case.lengths[0] - 1)]);
    }

    #[test]
    fn ragged_batches_equal_the_oracle(case in case(prop::collection::vec(length(), 2..5))) {
        check(&case, &[]);
    }
}

/// The case that catches most slips: all sizes different, a start state that is not zero.
fn distinct(lengths: &[usize]) -> Case {
    Case {
        dims: Dims { h: 6, g: 3, p: 5, n: 7, k: 4 },
        activation: Activation::Identity,
        lengths: lengths.to_vec(),
        A_log: 3.0,
        seed: 11,
    }
}

#[test]
fn token_by_token_equals_the_oracle() {
    let case = distinct(&[9, 9]);
    check(&case, &(1..9).collect::<Vec<_>>());
}

#[test]
fn rows_without_tokens_keep_their_state() {
    check(&distinct(&[0, 5, 1]), &[]);
}

#[test]
fn decay_stays_exact_after_strong_forgetting() {
    // A running sum of log-decays near -3800 would lose the small decays that follow it.
    let mut case = distinct(&[2 * CHUNK]);
    case.dims = Dims { h: 1, g: 1, p: 2, n: 3, k: 1 };
    let mut data = Data::new(&case);
    for (t, row) in data.rows[0].chunks_exact_mut(case.dims.in_proj_dim()).enumerate() {
        *row.last_mut().unwrap() = if t % CHUNK < CHUNK - 8 { 60.0 } else { -3.0 };
    }
    let expected = {
        let mut state = data.states[0].clone();
        let y = oracle::mixer(&data.rows[0], &mut state, &data.weights, case.dims, case.activation);
        (y, state)
    };
    let rows = array(&data.rows[0], &[1, 2 * CHUNK, case.dims.in_proj_dim()]);
    let state = mlx_state(&data.states, case.dims);
    let weights = mlx_weights(&data.weights, case.dims);
    let mixed = Backend::Plain
        .mixer(&MixerInput::new(&rows), &state, &weights, case.dims, case.activation)
        .unwrap();
    assert_close("y", &values(&mixed.y), &expected.0);
    assert_close("ssm state", &values(&mixed.state.ssm), &expected.1.ssm);
}

#[test]
fn wrong_shapes_are_named() {
    let case = distinct(&[3]);
    let (dims, data) = (case.dims, Data::new(&case));
    let rows = array(&data.rows[0], &[1, 3, dims.in_proj_dim()]);
    let weights = mlx_weights(&data.weights, dims);
    let state = mlx_state(&data.states, dims);
    let run = |rows: &Array, state: &MixerState, weights: &MixerWeights| {
        Backend::Plain
            .mixer(&MixerInput::new(rows), state, weights, dims, case.activation)
            .unwrap_err()
            .to_string()
    };
    let short = rows.reshape(&[3, -1]).unwrap();
    let message = run(&short, &state, &weights);
    assert_eq!(message, "rows has shape [3, 108], expected (b, l, 108) with b, l > 0");
    let two = mlx_state(&[data.states[0].clone(), data.states[0].clone()], dims);
    assert!(run(&rows, &two, &weights).starts_with("state.conv has shape [2, 3, 72]"));
    let bad = MixerWeights { D: array(&[1.0], &[1]), ..weights.clone() };
    assert_eq!(run(&rows, &state, &bad), "D has shape [1], expected [6]");
}

#[test]
fn bfloat16_errs_no_more_than_its_rounding() {
    let case = distinct(&[70]);
    let (dims, mut data) = (case.dims, Data::new(&case));
    // Inputs that bfloat16 holds exactly, so that only the computation rounds.
    let round = |v: &mut f64| *v = f64::from(f32::from_bits((*v as f32).to_bits() & 0xffff_0000));
    data.rows[0].iter_mut().for_each(round);
    data.states[0].conv.iter_mut().for_each(round);
    let mut state = data.states[0].clone();
    let expected = oracle::mixer(&data.rows[0], &mut state, &data.weights, dims, case.activation);
    let rows = array(&data.rows[0], &[1, 70, dims.in_proj_dim()]);
    let rows = rows.as_dtype(Dtype::Bfloat16).unwrap();
    let weights = mlx_weights(&data.weights, dims);
    let start = mlx_state(&data.states, dims);
    let mixed = Backend::Plain
        .mixer(&MixerInput::new(&rows), &start, &weights, dims, case.activation)
        .unwrap();
    assert_eq!(mixed.y.dtype(), Dtype::Bfloat16);
    assert_eq!(mixed.state.ssm.dtype(), Dtype::Float32);
    let found = values(&mixed.y.as_dtype(Dtype::Float32).unwrap());
    let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let error =
        found.iter().zip(&expected).fold(0.0f64, |m, (f, e)| m.max((f64::from(*f) - e).abs()));
    // Measured 0.9 %; a bfloat16 has 8 bits, and six roundings meet in an output.
    assert!(error <= 0.02 * scale, "error {error} of {scale}");
}
