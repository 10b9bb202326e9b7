//! The mixer's kernel for CPUs: against the float64 oracle, and against itself to the bit for every
//! way to cut a prompt, to share the work and to batch it; with every instruction set of this machine.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_llamba_kernels::oracle::{self, State, Weights};
use mlx_llamba_kernels::{Activation, Backend, Dims, MixerInput, MixerState, MixerWeights, cpu};
use mlx_rs::ops::{concatenate, split_at_indices};
use mlx_rs::{Array, Dtype};
use proptest::prelude::*;

/// Largest error relative to the largest value; 3000 random cases with each instruction set stayed
/// below 9e-7 in y and 4e-7 in the state.
const TOLERANCE: f64 = 4e-6;

/// Instruction sets and thread counts are the process's: one test at a time changes them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` with each instruction set that this machine has.
fn with_every_instruction_set(mut f: impl FnMut(&str)) {
    for name in ["baseline", "avx2", "avx512"] {
        if cpu::set_simd(name) {
            f(name);
        }
    }
}

/// Deterministic values in -scale..scale (SplitMix64).
fn random(seed: &mut u64, len: usize, scale: f64) -> Vec<f32> {
    let value = |_| {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * scale) as f32
    };
    (0..len).map(value).collect()
}

#[derive(Debug, Clone)]
struct Case {
    dims: Dims,
    activation: Activation,
    b: usize,
    l: usize,
    /// Tokens of each row, where they differ.
    lengths: Option<Vec<i32>>,
    A_log: f64,
    /// `A_log` apart from the rows.
    split: bool,
    biases: bool,
    seed: u64,
}

/// Everything float32, row-major; `A_log` also where the rows hold it.
#[derive(Clone)]
struct Data {
    rows: Vec<f32>,
    A_log: Vec<f32>,
    conv_weight: Vec<f32>,
    conv_bias: Vec<f32>,
    z_bias: Vec<f32>,
    D: Vec<f32>,
    conv: Vec<f32>,
    ssm: Vec<f32>,
}

/// y (b, l, d_inner), conv and ssm as bits, so that equality is equality.
#[derive(PartialEq)]
struct Bits([Vec<u32>; 3]);

impl Case {
    fn data(&self) -> Data {
        let (seed, dims) = (&mut self.seed.clone(), self.dims);
        let (tokens, conv_dim) = (self.b * self.l, dims.conv_dim());
        let A_log = random(seed, tokens * dims.h, self.A_log);
        let width = self.width();
        let mut rows = random(seed, tokens * width, 1.0);
        if !self.split {
            for (row, A_log) in rows.chunks_exact_mut(width).zip(A_log.chunks_exact(dims.h)) {
                row[width - dims.h..].copy_from_slice(A_log);
            }
        }
        Data {
            rows,
            A_log,
            conv_weight: random(seed, conv_dim * dims.k, 1.0),
            conv_bias: random(seed, conv_dim, if self.biases { 0.5 } else { 0.0 }),
            z_bias: random(seed, dims.d_inner(), if self.biases { 1.0 } else { 0.0 }),
            D: random(seed, dims.h, 1.0),
            conv: random(seed, self.b * (dims.k - 1) * conv_dim, 1.0),
            ssm: random(seed, self.b * dims.h * dims.p * dims.n, 1.0),
        }
    }

    fn width(&self) -> usize {
        self.dims.in_proj_dim() - if self.split { self.dims.h } else { 0 }
    }

    /// Through the kernel, in pieces that end at `cuts` and at l.
    fn run(&self, data: &Data, cuts: &[usize]) -> Bits {
        let (dims, b, l) = (self.dims, self.b, self.l);
        let weights = MixerWeights {
            conv_weight: array(&data.conv_weight, &[dims.conv_dim(), dims.k]),
            conv_bias: self.biases.then(|| array(&data.conv_bias, &[dims.conv_dim()])),
            z_bias: self.biases.then(|| array(&data.z_bias, &[dims.d_inner()])),
            D: array(&data.D, &[dims.h]),
        };
        let mut state = MixerState {
            conv: array(&data.conv, &[b, dims.k - 1, dims.conv_dim()]),
            ssm: array(&data.ssm, &[b, dims.h, dims.p, dims.n]),
        };
        let rows = array(&data.rows, &[b, l, self.width()]);
        let A_log = array(&data.A_log, &[b, l, dims.h]);
        let mut y = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([l]) {
            let piece = |whole: &Array| {
                split_at_indices(whole, &[start as i32, end as i32], 1).unwrap().swap_remove(1)
            };
            let lengths = self.lengths.as_ref().map(|lengths| {
                let left: Vec<i32> = lengths.iter().map(|length| length - start as i32).collect();
                Array::from_slice(&left, &[b as i32])
            });
            let (rows, A_log) = (piece(&rows), piece(&A_log));
            let input = MixerInput {
                rows: &rows,
                A_log: self.split.then_some(&A_log),
                lengths: lengths.as_ref(),
            };
            let mixed =
                Backend::Cpu.mixer(&input, &state, &weights, dims, self.activation).unwrap();
            y.push(mixed.y);
            state = mixed.state;
            start = end;
        }
        let y = concatenate(&y, 1).unwrap();
        Bits([&y, &state.conv, &state.ssm].map(bits))
    }

    /// Compares what the kernel gave with the oracle: the tokens that count, and both states.
    fn check(&self, data: &Data, found: &Bits) {
        let (dims, l) = (self.dims, self.l);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let weights = Weights {
            conv_weight: wide(&data.conv_weight),
            conv_bias: wide(&data.conv_bias),
            z_bias: wide(&data.z_bias),
            D: wide(&data.D),
        };
        let per_row = |values: &[f32], row: usize| {
            let len = values.len() / self.b;
            wide(&values[row * len..][..len])
        };
        let (mut y, mut conv, mut ssm) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..self.b {
            let length = self
                .lengths
                .as_ref()
                .map_or(l, |lengths| usize::try_from(lengths[row]).unwrap_or(0).min(l));
            let width = self.width();
            let mut joined = Vec::new();
            for t in (row * l..).take(length) {
                let end = if self.split { width } else { width - dims.h };
                joined.extend(wide(&data.rows[t * width..][..end]));
                joined.extend(wide(&data.A_log[t * dims.h..][..dims.h]));
            }
            let mut state = State { conv: per_row(&data.conv, row), ssm: per_row(&data.ssm, row) };
            y.extend(oracle::mixer(&joined, &mut state, &weights, dims, self.activation));
            let (real, all) = (y.len(), (row + 1) * l * dims.d_inner());
            assert!(found.0[0][real..all].iter().all(|&bits| bits == 0), "padding of row {row}");
            y.resize(all, 0.0);
            conv.extend(state.conv);
            ssm.extend(state.ssm);
        }
        assert_close("y", &found.0[0], &y, TOLERANCE);
        assert_close("conv state", &found.0[1], &conv, 0.0);
        assert_close("ssm state", &found.0[2], &ssm, TOLERANCE);
    }
}

fn array(data: &[f32], shape: &[usize]) -> Array {
    let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
    Array::from_slice(data, &shape)
}

fn bits(array: &Array) -> Vec<u32> {
    assert_eq!(array.dtype(), Dtype::Float32);
    let array = array.contiguous().unwrap();
    let values: Vec<f32> = if array.size() == 0 { vec![] } else { array.to_vec_exact().unwrap() };
    values.into_iter().map(f32::to_bits).collect()
}

/// Compares and prints the first five mismatches.
fn assert_close(what: &str, found: &[u32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    let bad: Vec<_> = found
        .iter()
        .map(|&bits| f64::from(f32::from_bits(bits)))
        .zip(expected)
        .enumerate()
        .filter(|(_, (f, e))| f.is_nan() || (f - **e).abs() > tolerance * scale)
        .take(5)
        .map(|(i, (f, e))| format!("[{i}] {f} instead of {e}"))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

fn assert_same(what: &str, found: &Bits, expected: &Bits) {
    for (name, (found, expected)) in
        ["y", "conv", "ssm"].iter().zip(found.0.iter().zip(&expected.0))
    {
        let differ = found.iter().zip(expected).filter(|(f, e)| f != e).count();
        assert!(differ == 0, "{what}: {differ} of {} values of {name} differ", found.len());
    }
}

/// Dimensions around the borders of vectors and of blocks of rows.
fn dims() -> impl Strategy<Value = Dims> {
    let n = prop_oneof![3 => 1..40usize, 1 => Just(64), 1 => 60..140usize];
    let p = prop_oneof![3 => 1..11usize, 1 => 1..70usize];
    (1..4usize, 1..4usize, p, n, 1..7usize).prop_map(|(g, r, p, n, k)| Dims {
        h: g * r,
        g,
        p,
        n,
        k,
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let l = prop_oneof![4 => 1..12usize, 1 => 50..200usize];
    let activation = prop_oneof![Just(Activation::Identity), Just(Activation::Silu)];
    let A_log = prop_oneof![Just(0.5), Just(6.0), Just(60.0), Just(300.0)];
    let flags = (any::<bool>(), prop::bool::weighted(0.8), prop::bool::weighted(0.4));
    (dims(), activation, 1..4usize, l, A_log, flags, any::<u64>()).prop_map(
        |(dims, activation, b, l, A_log, (split, biases, ragged), seed)| {
            // -1..=l+1: what is out of range counts as the nearest length that is not.
            let lengths = ragged.then(|| {
                random(&mut seed.clone(), b, 1.0)
                    .iter()
                    .map(|v| ((v + 1.0) / 2.0 * (l as f32 + 3.0)) as i32 - 1)
                    .collect()
            });
            Case { dims, activation, b, l, lengths, A_log, split, biases, seed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..Default::default() })]

    #[test]
    fn equals_the_oracle_and_itself_however_it_is_cut(
        case in cases(),
        cut in any::<prop::sample::Index>(),
    ) {
        let _alone = alone();
        let data = case.data();
        with_every_instruction_set(|name| {
            let whole = case.run(&data, &[]);
            case.check(&data, &whole);
            if case.l > 1 {
                let cut = 1 + cut.index(case.l - 1);
                assert_same(&format!("{name}, cut at {cut}"), &case.run(&data, &[cut]), &whole);
            }
            if case.l < 20 {
                let each: Vec<_> = (1..case.l).collect();
                assert_same(&format!("{name}, token by token"), &case.run(&data, &each), &whole);
            }
        });
    }
}

/// All sizes different, vectors with ends, more than one tile of tokens, work enough to be shared.
fn distinct() -> Case {
    Case {
        dims: Dims { h: 6, g: 3, p: 21, n: 39, k: 4 },
        activation: Activation::Silu,
        b: 2,
        l: 150,
        lengths: None,
        A_log: 3.0,
        split: false,
        biases: true,
        seed: 11,
    }
}

#[test]
fn every_cut_gives_the_same_bits() {
    let _alone = alone();
    let mut case = distinct();
    case.l = 70; // a tile has at most 64 tokens
    let data = case.data();
    with_every_instruction_set(|name| {
        let whole = case.run(&data, &[]);
        case.check(&data, &whole);
        for cut in 1..case.l {
            assert_same(&format!("{name}, cut at {cut}"), &case.run(&data, &[cut]), &whole);
        }
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    let _alone = alone();
    let case = distinct();
    let data = case.data();
    let before = cpu::threads();
    with_every_instruction_set(|name| {
        cpu::set_threads(1);
        let one = case.run(&data, &[]);
        case.check(&data, &one);
        for threads in [2, 3, 7] {
            cpu::set_threads(threads);
            assert_same(&format!("{name}, {threads} threads"), &case.run(&data, &[]), &one);
        }
    });
    cpu::set_threads(before);
}

#[test]
fn a_batch_gives_the_bits_of_its_rows_alone() {
    let _alone = alone();
    let mut case = distinct();
    case.b = 3;
    case.lengths = Some(vec![20, 150, 0]);
    let data = case.data();
    let batch = case.run(&data, &[]);
    case.check(&data, &batch);
    for row in 0..case.b {
        let part = |values: &[f32]| {
            let len = values.len() / case.b;
            values[row * len..][..len].to_vec()
        };
        let mut alone = Case { b: 1, lengths: None, ..case.clone() };
        alone.lengths = case.lengths.as_ref().map(|lengths| vec![lengths[row]]);
        let data = Data {
            rows: part(&data.rows),
            A_log: part(&data.A_log),
            conv: part(&data.conv),
            ssm: part(&data.ssm),
            ..data.clone()
        };
        let expected = Bits([0, 1, 2].map(|array| {
            let bits: &[u32] = &batch.0[array];
            let len = bits.len() / case.b;
            bits[row * len..][..len].to_vec()
        }));
        assert_same(&format!("row {row}"), &alone.run(&data, &[]), &expected);
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let _alone = alone();
    let case = distinct();
    let data = case.data();
    let clean = case.run(&data, &[]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut spoilt = data.clone();
        let row = spoilt.rows.len() / 2;
        spoilt.rows[..row].fill(value);
        spoilt.conv[..data.conv.len() / 2].fill(value);
        let found = case.run(&spoilt, &[]);
        for (found, clean) in found.0.iter().zip(&clean.0) {
            let half = clean.len() / 2;
            assert!(found[half..] == clean[half..], "{value} in row 0 changed row 1");
            assert!(found[..half] != clean[..half], "{value} in row 0 did not change row 0");
        }
    }
}

#[test]
fn weights_of_other_dtypes_count_as_float32() {
    let _alone = alone();
    let dims = Dims { h: 6, g: 3, p: 5, n: 7, k: 4 };
    let case = Case { dims, l: 5, ..distinct() };
    let data = case.data();
    let rows = array(&data.rows, &[2, 5, dims.in_proj_dim()]);
    let state = MixerState {
        conv: array(&data.conv, &[2, 3, dims.conv_dim()]),
        ssm: array(&data.ssm, &[2, 6, 5, 7]),
    };
    let run = |stored: Dtype| {
        let weight = |values: &[f32], shape: &[usize]| {
            let rounded = array(values, shape).as_dtype(Dtype::Bfloat16).unwrap();
            rounded.as_dtype(stored).unwrap()
        };
        let weights = MixerWeights {
            conv_weight: weight(&data.conv_weight, &[dims.conv_dim(), 4]),
            conv_bias: Some(weight(&data.conv_bias, &[dims.conv_dim()])),
            z_bias: Some(weight(&data.z_bias, &[dims.d_inner()])),
            D: weight(&data.D, &[6]),
        };
        let input = MixerInput::new(&rows);
        let mixed =
            Backend::Cpu.mixer(&input, &state, &weights, dims, Activation::Identity).unwrap();
        bits(&mixed.y)
    };
    assert!(run(Dtype::Bfloat16) == run(Dtype::Float32));
}
