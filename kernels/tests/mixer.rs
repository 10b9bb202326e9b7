//! The mixer of every back end of this machine, compared with the float64 oracle: outputs and both
//! states, for the list of cases and for random shapes. (Metal: `metal.rs`.)

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod support;

use mlx_llamba_kernels::{Activation, Backend, CHUNK, Dims, MixerInput, MixerWeights};
use mlx_rs::Dtype;
use proptest::prelude::*;
use support::{
    Case, Data, array, assert_close, check, error_of, in_pieces, on, ragged, rings, scale_of,
    state, steps, tokens, weights,
};

/// Largest error relative to the largest value; 3000 random cases stayed below 1e-6.
const TOLERANCE: f64 = 4e-6;

const BACKENDS: [Backend; 2] = [Backend::PLAIN, Backend::CPU];

/// Runs the case on every back end, in pieces that end at `cuts`.
fn check_all(case: &Case, cuts: &[usize]) {
    let data = Data::new(case);
    for backend in BACKENDS {
        check(case, &in_pieces(backend, case, &data, cuts), &data, TOLERANCE);
    }
}

#[test]
fn the_list_equals_the_oracle() {
    for case in steps().into_iter().chain(tokens()).chain(ragged()) {
        check_all(&case, &[]);
    }
}

#[test]
fn token_by_token_equals_the_oracle() {
    check_all(&Case::new([6, 3, 5, 7, 4], 2, 9), &(1..9).collect::<Vec<_>>());
}

/// Lengths near multiples of a chunk, and all small ones.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1..12usize,
        2 => CHUNK - 2..CHUNK + 3,
        1 => 2 * CHUNK - 1..2 * CHUNK + 2,
        1 => Just(3 * CHUNK + 5),
    ]
}

fn case(lengths: impl Strategy<Value = Vec<usize>>, ragged: bool) -> impl Strategy<Value = Case> {
    let dims = (1..4usize, 1..4usize, 1..9usize, 1..40usize, 1..6usize);
    let A_log = prop_oneof![Just(0.5), Just(6.0), Just(60.0)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (dims, lengths, A_log, flags, any::<u64>()).prop_map(
        move |(dims, lengths, A_log, flags, seed)| {
            let ((g, r, p, n, k), (silu, split_A_log, conv_bias, z_bias)) = (dims, flags);
            let l = lengths.iter().copied().max().unwrap_or(1);
            let activation = if silu { Activation::Silu } else { Activation::Identity };
            let case = Case::new([g * r, g, p, n, k], 0, l);
            Case {
                lengths,
                ragged,
                activation,
                split_A_log,
                conv_bias,
                z_bias,
                A_log,
                seed,
                ..case
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn one_go_equals_the_oracle(
        case in case((length(), 1..4usize).prop_map(|(l, b)| vec![l; b]), false),
    ) {
        check_all(&case, &[]);
    }

    #[test]
    fn every_cut_equals_the_oracle(
        case in case((2..2 * CHUNK, 1..3usize).prop_map(|(l, b)| vec![l; b]), false),
        cut in any::<prop::sample::Index>(),
    ) {
        check_all(&case, &[1 + cut.index(case.l - 1)]);
    }

    #[test]
    fn ragged_batches_equal_the_oracle(case in case(prop::collection::vec(length(), 2..5), true)) {
        check_all(&case, &[]);
    }
}

#[test]
fn decay_stays_exact_after_strong_forgetting() {
    // A cumulative sum of log-decays near -3800 would lose the small decays after it.
    let case = Case::new([1, 1, 2, 3, 1], 1, 2 * CHUNK);
    let mut data = Data::new(&case);
    for (t, row) in data.rows.chunks_exact_mut(case.dims.in_proj_dim()).enumerate() {
        *row.last_mut().unwrap() = if t % CHUNK < CHUNK - 8 { 60.0 } else { -3.0 };
    }
    data.recompute(&case);
    for backend in BACKENDS {
        check(&case, &on(backend, &case, &data), &data, TOLERANCE);
    }
}

#[test]
fn wrong_shapes_are_named() {
    let case = Case::new([6, 3, 5, 7, 4], 1, 3);
    let (dims, data) = (case.dims, Data::new(&case));
    let rows = array(Dtype::Float32, &[1, 3, dims.in_proj_dim()], &data.rows);
    let (start, right) = (state(&case, &data), weights(&case, &data));
    let message = |input: &MixerInput<'_>, start, weights: &MixerWeights| {
        let result = Backend::CPU.mixer(input, start, weights, dims, case.activation);
        result.unwrap_err().to_string()
    };
    let input = MixerInput::new(&rows);
    let short = rows.reshape(&[3, -1]).unwrap();
    let expected = "rows has shape [3, 108], expected (b, l, 108) with b, l > 0";
    assert_eq!(message(&MixerInput::new(&short), &start, &right), expected);
    let apart = MixerInput { A_log: Some(&short), ..input };
    let expected = "rows has shape [1, 3, 108], expected [1, 3, 102]";
    assert_eq!(message(&apart, &start, &right), expected);
    let two = Case::new([6, 3, 5, 7, 4], 2, 3);
    let two = state(&two, &Data::new(&two));
    assert!(message(&input, &two, &right).starts_with("state.conv has shape [2, 3, 72]"));
    let bad = MixerWeights { D: array(Dtype::Float32, &[1], &[1.0]), ..right.clone() };
    assert_eq!(message(&input, &start, &bad), "D has shape [1], expected [6]");
    for (dims, found) in [
        (Dims { g: 4, ..dims }, "[6, 4, 5, 7, 4]"),
        (Dims { k: 0, ..dims }, "[6, 3, 5, 7, 0]"),
        (Dims { g: 0, ..dims }, "[6, 0, 5, 7, 4]"),
    ] {
        let result = Backend::CPU.mixer(&input, &start, &right, dims, case.activation);
        let expected = "sizes above 0, h a multiple of g";
        assert_eq!(
            result.unwrap_err().to_string(),
            format!("dims (h, g, p, n, k) has shape {found}, expected {expected}")
        );
    }
}

#[test]
fn bfloat16_errs_no_more_than_its_rounding() {
    let case = Case::new([6, 3, 5, 7, 4], 1, 70).dtype(Dtype::Bfloat16);
    let data = Data::new(&case);
    let [y, states] = error_of(&case, &on(Backend::PLAIN, &case, &data), &data);
    // Measured 0.9 %; a bfloat16 has 8 bits, and an output has six roundings.
    assert!(y <= 0.02 && states <= 0.02, "errors {y} and {states}");
}

#[test]
fn ring_attention_equals_its_definition() {
    for ring in rings() {
        let data = ring.data();
        for backend in [Backend::PLAIN, Backend::CPU] {
            let expected = ring.expected(&data);
            let allowed = 1e-6 * scale_of(&expected);
            let found = support::values(&ring.run(backend, &ring.arrays(&data).unwrap()).unwrap());
            assert_close(&format!("{backend:?} {ring:?}"), &found, &expected, allowed);
        }
    }
}
