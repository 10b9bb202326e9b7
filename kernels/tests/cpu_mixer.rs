//! The mixer's CPU kernel with every instruction set of this machine: compared with the float64
//! oracle, and with itself to the bit for every cut of a prompt, number of threads and batch.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod settings;
mod support;

use mlx_llamba_kernels::{Activation, Backend, MixerInput, MixerWeights, cpu};
use mlx_rs::{Array, Dtype};
use proptest::prelude::*;
use settings::{alone, with_every_instruction_set};
use support::{Case, Data, Found, array, check, in_pieces, ragged, state, steps, tokens, weights};

/// Largest error relative to the largest value; 60000 random cases stayed below 1.4e-6 in y and
/// 5e-7 in the state.
const TOLERANCE: f64 = 4e-6;

fn pieces(case: &Case, data: &Data, cuts: &[usize]) -> Found {
    in_pieces(Backend::CPU, case, data, cuts)
}

/// y, conv and ssm.
fn parts(found: &Found) -> [(&str, &[f64]); 3] {
    [("y", &found.y), ("conv state", &found.conv), ("ssm state", &found.ssm)]
}

/// Counts values with different bits: zeros have a sign, and a NaN equals itself.
fn differ(found: &[f64], expected: &[f64]) -> usize {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).filter(|(f, e)| f.to_bits() != e.to_bits()).count()
}

fn assert_same(what: &str, found: &Found, expected: &Found) {
    for ((name, found), (_, expected)) in parts(found).into_iter().zip(parts(expected)) {
        let count = differ(found, expected);
        assert!(count == 0, "{what}: {count} of {} values of {name} differ", found.len());
    }
}

#[test]
fn the_list_equals_the_oracle() {
    let _alone = alone();
    for case in steps().into_iter().chain(tokens()).chain(ragged()) {
        let data = Data::new(&case);
        with_every_instruction_set(|_| check(&case, &pieces(&case, &data, &[]), &data, TOLERANCE));
    }
}

/// Sizes near multiples of vectors and of blocks of rows.
fn cases() -> impl Strategy<Value = Case> {
    let n = prop_oneof![3 => 1..40usize, 1 => Just(64), 1 => 60..140usize];
    let p = prop_oneof![3 => 1..11usize, 1 => 1..70usize];
    let dims = (1..4usize, 1..4usize, p, n, 1..7usize);
    let l = prop_oneof![4 => 1..12usize, 1 => 50..200usize];
    let A_log = prop_oneof![Just(0.5), Just(6.0), Just(60.0), Just(300.0)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (dims, 1..4usize, l, A_log, flags, any::<u64>()).prop_map(
        |((g, r, p, n, k), b, l, A_log, (silu, split_A_log, conv_bias, z_bias), seed)| {
            let activation = if silu { Activation::Silu } else { Activation::Identity };
            let case = Case::new([g * r, g, p, n, k], b, l);
            Case { activation, split_A_log, conv_bias, z_bias, A_log, seed, ..case }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn equals_the_oracle_and_itself_however_it_is_cut(
        case in cases(),
        cut in any::<prop::sample::Index>(),
    ) {
        let _alone = alone();
        let data = Data::new(&case);
        with_every_instruction_set(|name| {
            let whole = pieces(&case, &data, &[]);
            check(&case, &whole, &data, TOLERANCE);
            if case.l > 1 {
                let cut = 1 + cut.index(case.l - 1);
                let found = pieces(&case, &data, &[cut]);
                assert_same(&format!("{name}, cut at {cut}, {case:?}"), &found, &whole);
            }
            if case.l < 20 {
                let each: Vec<_> = (1..case.l).collect();
                let found = pieces(&case, &data, &each);
                assert_same(&format!("{name}, token by token, {case:?}"), &found, &whole);
            }
        });
    }
}

/// All sizes different, partial vectors, enough work for several threads.
fn distinct(b: usize, l: usize) -> Case {
    Case { activation: Activation::Silu, ..Case::new([6, 3, 21, 39, 4], b, l) }
}

#[test]
fn every_cut_gives_the_same_bits() {
    let _alone = alone();
    let case = distinct(2, 70); // a tile has at most 64 tokens
    let data = Data::new(&case);
    with_every_instruction_set(|name| {
        let whole = pieces(&case, &data, &[]);
        check(&case, &whole, &data, TOLERANCE);
        for cut in 1..case.l {
            assert_same(&format!("{name}, cut at {cut}"), &pieces(&case, &data, &[cut]), &whole);
        }
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    let _alone = alone();
    let case = distinct(2, 150);
    let data = Data::new(&case);
    let before = cpu::threads();
    with_every_instruction_set(|name| {
        cpu::set_threads(1);
        let one = pieces(&case, &data, &[]);
        check(&case, &one, &data, TOLERANCE);
        for threads in [2, 3, 7] {
            cpu::set_threads(threads);
            let found = pieces(&case, &data, &[]);
            assert_same(&format!("{name}, {threads} threads"), &found, &one);
        }
    });
    cpu::set_threads(before);
}

#[test]
fn a_batch_gives_the_bits_of_its_rows_alone() {
    let _alone = alone();
    let case = distinct(3, 150).lengths(&[20, 150, 0]);
    let data = Data::new(&case);
    let batch = pieces(&case, &data, &[]);
    check(&case, &batch, &data, TOLERANCE);
    let row = |all: &[f64], row: usize| {
        let len = all.len() / 3;
        all[row * len..][..len].to_vec()
    };
    for (i, &length) in case.lengths.iter().enumerate() {
        let mut of_row = Data::new(&case);
        of_row.rows = row(&data.rows, i);
        of_row.states = vec![data.states[i].clone()];
        let found = pieces(&Case { lengths: vec![length], ..case.clone() }, &of_row, &[]);
        let [y, conv, ssm] = [&batch.y, &batch.conv, &batch.ssm].map(|all| row(all, i));
        let padding = &y[length * case.dims.d_inner()..];
        assert!(padding.iter().all(|v| v.to_bits() == 0), "padding of row {i} is not 0");
        assert_same(&format!("row {i}"), &found, &Found { y, conv, ssm });
    }
}

#[test]
fn lengths_out_of_range_count_as_the_nearest() {
    let _alone = alone();
    let case = distinct(2, 9);
    let data = Data::new(&case);
    let (start, weights) = (state(&case, &data), weights(&case, &data));
    let rows = array(Dtype::Float32, &[2, 9, case.dims.in_proj_dim()], &data.rows);
    let run = |lengths: [i32; 2]| {
        let lengths = Array::from_slice(&lengths, &[2]);
        let input = MixerInput { lengths: Some(&lengths), ..MixerInput::new(&rows) };
        let mixed = Backend::CPU.mixer(&input, &start, &weights, case.dims, case.activation);
        let mixed = mixed.unwrap();
        [&mixed.y, &mixed.state.conv, &mixed.state.ssm]
            .map(|array| array.to_vec_exact::<f32>().unwrap())
    };
    assert!(run([i32::MIN, i32::MAX]) == run([0, 9]));
    assert!(run([-1, 10]) == run([0, 9]));
    assert!(run([1, 8]) != run([0, 9]));
}

#[test]
fn values_that_are_not_finite_stay_in_their_row() {
    let _alone = alone();
    let case = distinct(2, 40);
    let data = Data::new(&case);
    let clean = pieces(&case, &data, &[]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut spoilt = Data::new(&case);
        let half = spoilt.rows.len() / 2;
        spoilt.rows[..half].fill(value.into());
        spoilt.states[0].conv.fill(value.into());
        let found = pieces(&case, &spoilt, &[]);
        for ((name, found), (_, clean)) in parts(&found).into_iter().zip(parts(&clean)) {
            let (own, other) = found.split_at(found.len() / 2);
            let (own_clean, other_clean) = clean.split_at(clean.len() / 2);
            assert!(differ(own, own_clean) > 0, "{value} left {name} of its row as it was");
            assert!(differ(other, other_clean) == 0, "{value} changed {name} of another row");
        }
    }
}

#[test]
fn weights_of_other_dtypes_count_as_float32() {
    let _alone = alone();
    let case = distinct(2, 5);
    let data = Data::new(&case.clone().dtype(Dtype::Bfloat16)); // values that bfloat16 holds
    let right = weights(&case, &data);
    let half = |array: &Array| array.as_dtype(Dtype::Bfloat16).unwrap();
    let stored = MixerWeights {
        conv_weight: half(&right.conv_weight),
        conv_bias: right.conv_bias.as_ref().map(half),
        z_bias: right.z_bias.as_ref().map(half),
        D: right.D.clone(),
    };
    let rows = array(Dtype::Float32, &[2, 5, case.dims.in_proj_dim()], &data.rows);
    let (input, start) = (MixerInput::new(&rows), state(&case, &data));
    let y = |weights: &MixerWeights| {
        let mixed = Backend::CPU.mixer(&input, &start, weights, case.dims, case.activation);
        mixed.unwrap().y.to_vec_exact::<f32>().unwrap()
    };
    assert!(y(&stored) == y(&right));
    check(&case, &pieces(&case, &data, &[]), &data, TOLERANCE);
}
