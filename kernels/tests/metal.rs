//! The Metal kernels under the emulator: outputs and both states are compared with the float64
//! oracle, and no run may have a fault.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod emulated;
mod support;

use emulated::{Piece, buffer, emulate, launch_of, run_launch};
use mlx_llamba_emulator::{Buffer, Report};
use mlx_llamba_kernels::gpu::{
    self, MAX_STEPS, add_rms_norm_launch, draw_launch, mixer_scan, mixer_step,
    ring_attention_launch, swiglu_launch,
};
use mlx_llamba_kernels::{Activation, Backend, Dims, Draw, RandomKey};
use mlx_rs::Dtype;
use support::{
    Case, Data, Ring, Values, array, assert_close, check, error_of, on, ragged, rings, scale_of,
    steps, tokens,
};

/// Largest error relative to the largest value, in float32. Measured 2.7e-7.
const TOLERANCE: f64 = 1e-6;

fn all_equal_the_oracle(cases: &[Case]) {
    for case in cases {
        let data = Data::new(case);
        let (found, _) = emulate(&launch_of(case), case, &data);
        check(case, &found, &data, TOLERANCE);
    }
}

#[test]
fn steps_equal_the_oracle() {
    all_equal_the_oracle(&steps());
}

#[test]
fn many_tokens_equal_the_oracle() {
    all_equal_the_oracle(&tokens());
}

#[test]
fn ragged_batches_equal_the_oracle() {
    all_equal_the_oracle(&ragged());
}

/// Both forms take the same cases where both can.
#[test]
fn the_other_form_equals_the_oracle() {
    for case in [Case::new([4, 2, 8, 16, 4], 2, 5), Case::new([4, 2, 8, 16, 4], 1, 16)] {
        let data = Data::new(&case);
        let scan = mixer_scan(&emulated::call_of(&case)).unwrap();
        check(&case, &emulate(&scan, &case, &data).0, &data, TOLERANCE);
    }
    let case = Case::new([4, 2, 8, 16, 4], 2, 40);
    let data = Data::new(&case);
    let step = mixer_step(&emulated::call_of(&case)).unwrap();
    check(&case, &emulate(&step, &case, &data).0, &data, TOLERANCE);
}

/// Calls of several tokens give the bits of single steps, cut anywhere.
#[test]
fn short_calls_are_bit_equal_to_steps() {
    for dims in [[6, 3, 5, 4, 4], [2, 1, 8, 40, 3], [1, 1, 130, 20, 4]] {
        let case = Case { split_A_log: true, ..Case::new(dims, 2, MAX_STEPS) };
        let data = Data::new(&case);
        let single = emulated::in_pieces(&case, &data, &(1..MAX_STEPS).collect::<Vec<_>>());
        for cuts in [&[][..], &[3], &[1, 5, 14]] {
            let pieces = emulated::in_pieces(&case, &data, cuts);
            assert_eq!(single.y, pieces.y, "y of {case:?} cut at {cuts:?}");
            assert_eq!(single.conv, pieces.conv, "conv state of {case:?} cut at {cuts:?}");
            assert_eq!(single.ssm, pieces.ssm, "ssm state of {case:?} cut at {cuts:?}");
        }
    }
}

/// Long calls may also be cut anywhere.
#[test]
fn cuts_do_not_matter() {
    for dims in [[4, 2, 8, 16, 4], [6, 3, 5, 4, 4]] {
        let case = Case::new(dims, 2, 75);
        let data = Data::new(&case);
        for cuts in [&[1][..], &[20, 52], &[40, 41, 74]] {
            check(&case, &emulated::in_pieces(&case, &data, cuts), &data, TOLERANCE);
        }
    }
}

/// A sequence alone and in a batch gives the same bits.
#[test]
fn batches_equal_their_rows() {
    let case = Case::new([4, 2, 8, 16, 4], 3, 40);
    let data = Data::new(&case);
    let (batch, _) = emulate(&launch_of(&case), &case, &data);
    for row in 0..3 {
        let piece = Piece { row: Some(row), ..Piece::all(&case) };
        let alone = emulated::piece(&case, &data, &data.states, piece);
        let of = |all: &[f64]| all[row * all.len() / 3..(row + 1) * all.len() / 3].to_vec();
        assert_eq!(alone.y, of(&batch.y), "y of row {row}");
        assert_eq!(alone.conv, of(&batch.conv), "conv state of row {row}");
        assert_eq!(alone.ssm, of(&batch.ssm), "ssm state of row {row}");
    }
}

/// Small decays stay exact after strong forgetting, across chunks and inside one.
#[test]
fn decay_stays_exact_after_strong_forgetting() {
    let case = Case::new([1, 1, 8, 8, 1], 1, 64);
    let mut data = Data::new(&case);
    let width = case.dims.in_proj_dim();
    for (t, row) in data.rows.chunks_exact_mut(width).enumerate() {
        *row.last_mut().unwrap() = if t % 32 < 24 { 60.0 } else { -3.0 };
    }
    data.recompute(&case);
    let (found, _) = emulate(&launch_of(&case), &case, &data);
    check(&case, &found, &data, TOLERANCE);
}

#[test]
fn unsupported_cases_say_why() {
    let dims = Dims { h: 1, g: 1, p: 8, n: 8, k: 4 };
    let why = |dims, dtype| gpu::supports(dims, 1, dtype).unwrap_err();
    let message = why(dims, Dtype::Int32);
    assert_eq!(message, "the GPU kernels take float32, float16 and bfloat16, not Int32");
    let message = why(Dims { n: 5000, ..dims }, Dtype::Float16);
    assert!(message.starts_with("one token of n = 5000 takes 40"), "{message}");
    assert!(gpu::supports(Dims { p: 5, ..dims }, 1000, Dtype::Float16).is_ok());
    let scan = mixer_scan(&emulated::call_of(&Case::new([1, 1, 5, 8, 4], 1, 20))).unwrap_err();
    assert_eq!(scan.to_string(), "p = 5 and n = 8 are not multiples of 8");
}

/// Sizes p, n of a head in the published models. Their mixers have 32 heads with B and C of their
/// own, so that one head stands for all.
const HEADS: [(&str, usize, usize); 3] = [("1B", 64, 64), ("3B", 96, 64), ("8B", 128, 64)];

/// Two-byte activations: the error is at most twice that of the same computation in MLX's
/// operations, or one unit in the last place of the largest value. Measured 0.3 to 0.7 times MLX's
/// for y.
#[test]
fn low_precision_errs_no_more_than_twice_as_much_as_mlx() {
    let mut cases = vec![
        Case::new([6, 3, 5, 4, 4], 2, 1),
        Case { activation: Activation::Silu, ..Case::new([4, 2, 8, 40, 4], 2, 9) },
        Case::new([4, 2, 8, 16, 4], 2, 70),
        Case::new([6, 3, 5, 4, 4], 0, 37).lengths(&[30, 0, 37]),
    ];
    cases.extend(HEADS.map(|(_, p, n)| Case::new([1, 1, p, n, 4], 1, 40)));
    for case in cases {
        for (dtype, last_place) in
            [(Dtype::Float16, 2f64.powi(-11)), (Dtype::Bfloat16, 2f64.powi(-8))]
        {
            let case = case.clone().dtype(dtype);
            let data = Data::new(&case);
            let (found, _) = emulate(&launch_of(&case), &case, &data);
            let ours = error_of(&case, &found, &data);
            let twin = error_of(&case, &on(Backend::PLAIN, &case, &data), &data);
            for (what, ours, twin) in [("y", ours[0], twin[0]), ("states", ours[1], twin[1])] {
                let allowed = (2.0 * twin).max(last_place);
                assert!(ours <= allowed, "{what}: {ours}, MLX {twin}, of {case:?}");
            }
        }
    }
}

/// Returns the device bytes, each counted once for every threadgroup that accesses it, divided by
/// the bytes of all inputs and outputs; and the report.
fn bytes_over_least(case: &Case) -> (f64, Report) {
    let data = Data::new(case);
    let launch = launch_of(case);
    let inputs = emulated::inputs(case, &data.rows, &data.states, &data);
    let (outputs, report) = run_launch(&launch, &inputs);
    let bytes = |buffers: &[Buffer]| buffers.iter().map(|b| b.bytes.len() as u64).sum::<u64>();
    // Two of the inputs are absent: the array D takes their places.
    let absent = 2 * bytes(&inputs[inputs.len() - 1..]);
    let least = bytes(&inputs) - absent + bytes(&outputs);
    ((report.bytes_read() + report.bytes_written()) as f64 / least as f64, report)
}

#[test]
fn decoding_moves_few_more_bytes_than_it_must() {
    for (model, p, n) in HEADS {
        for b in [1, 8] {
            let case = Case::new([2, 2, p, n, 4], b, 1).dtype(Dtype::Bfloat16);
            let (ratio, report) = bytes_over_least(&case);
            assert!((1.0..=1.1).contains(&ratio), "{model}, batch {b}: {ratio}");
            // The state is read and written in whole lines of 128 bytes, each by one instruction of
            // one simdgroup; nothing is loaded twice.
            let [before, after] = ["ssm", "ssm_out"].map(|name| report.buffer(name).unwrap());
            assert_eq!(before.lines_read * 128, before.read, "{model}, batch {b}");
            assert_eq!(after.lines_written * 128, after.written, "{model}, batch {b}");
            assert!(report.buffers.iter().all(|b| b.raw_read == b.read), "{model}, batch {b}");
        }
    }
}

#[test]
fn prefill_moves_few_more_bytes_than_it_must() {
    for (model, p, n) in HEADS {
        for b in [1, 8] {
            let case = Case::new([1, 1, p, n, 4], b, 128).dtype(Dtype::Bfloat16);
            let (ratio, _) = bytes_over_least(&case);
            assert!((1.0..=1.1).contains(&ratio), "{model}, batch {b}: {ratio}");
        }
    }
}

#[test]
fn swiglu_equals_its_definition() {
    for (shape, dtype, last_place) in [
        ([2, 3, 10], Dtype::Float32, 1e-6),
        ([1, 5, 24], Dtype::Float16, 2f64.powi(-10)),
        ([2, 1, 14], Dtype::Bfloat16, 2f64.powi(-7)),
    ] {
        let (rows, m) = (shape[0] * shape[1], shape[2] / 2);
        let gate_up = Values(5).take(rows * 2 * m, 30.0, dtype);
        let expected: Vec<f64> = (0..rows * m)
            .map(|i| {
                let (gate, up) =
                    (gate_up[i / m * 2 * m + i % m], gate_up[(i / m * 2 + 1) * m + i % m]);
                gate / (1.0 + (-gate).exp()) * up
            })
            .collect();
        let launch = swiglu_launch(&shape.map(|s| s as i32), dtype).unwrap();
        let (outputs, report) = run_launch(&launch, &[buffer(dtype, &shape, &gate_up)]);
        assert_close("swiglu", &outputs[0].to_f64(), &expected, last_place * scale_of(&expected));
        let size = gate_up.len() * outputs[0].bytes.len() / (rows * m);
        assert_eq!(report.bytes_read() + report.bytes_written(), (size * 3 / 2) as u64);
    }
}

#[test]
fn add_rms_norm_equals_its_definition() {
    for (d, dtype, last_place) in [
        (5, Dtype::Float32, 1e-6),
        (252, Dtype::Float32, 1e-6),
        (300, Dtype::Float16, 2f64.powi(-10)),
        (2049, Dtype::Bfloat16, 2f64.powi(-7)),
        (3072, Dtype::Bfloat16, 2f64.powi(-7)),
        (9000, Dtype::Float32, 1e-6),
    ] {
        let mut values = Values(d as u64);
        let [x, y] = [2.0, 1.0].map(|scale| values.take(3 * d, scale, dtype));
        let weight = values.take(d, 1.5, dtype);
        let epsilon = 1e-2f32;
        let launch = add_rms_norm_launch(&[3, 1, d as i32], dtype, epsilon).unwrap();
        let arrays = [buffer(dtype, &[3, 1, d], &x), buffer(dtype, &[3, 1, d], &y)];
        let [x_array, y_array] = arrays;
        let (outputs, _) = run_launch(&launch, &[x_array, y_array, buffer(dtype, &[d], &weight)]);
        let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_close("sum", &outputs[0].to_f64(), &sum, last_place * scale_of(&sum));
        let normed: Vec<f64> = sum
            .chunks_exact(d)
            .flat_map(|row| {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / d as f64;
                let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
                row.iter().zip(&weight).map(move |(v, w)| v * scale * w)
            })
            .collect();
        let allowed = last_place * scale_of(&normed);
        assert_close(&format!("norm of {d}"), &outputs[1].to_f64(), &normed, allowed);
    }
}

#[test]
fn ring_attention_equals_its_definition() {
    for (i, ring) in rings().into_iter().enumerate() {
        let halves = [(Dtype::Float16, 2f64.powi(-10)), (Dtype::Bfloat16, 2f64.powi(-7))];
        for (dtype, last_place) in
            [(Dtype::Float32, 1e-6)].into_iter().chain(halves.get(i).copied())
        {
            let ring = Ring { dtype, ..ring.clone() };
            let (data, b) = (ring.data(), ring.positions.len());
            let shape = [b, ring.h, ring.k];
            let launch = ring_attention_launch(shape, ring.g, ring.room, dtype, Ring::SCALE);
            let positions: Vec<f64> = ring.positions.iter().map(|&p| p as f64).collect();
            let places = [b, ring.g, ring.room, ring.k];
            let arrays = [
                buffer(dtype, &shape, &data.queries),
                buffer(dtype, &places, &data.keys),
                buffer(dtype, &places, &data.values),
                buffer(Dtype::Int32, &[b], &positions),
                buffer(Dtype::Int32, &[1], &[ring.read as f64]),
            ];
            let (outputs, report) = run_launch(&launch.unwrap(), &arrays);
            let expected = ring.expected(&data);
            let allowed = last_place * scale_of(&expected);
            assert_close(&format!("{ring:?}"), &outputs[0].to_f64(), &expected, allowed);
            // Places of no text are not read.
            let tokens: usize = ring.positions.iter().map(|position| position + 1).sum();
            let bytes = tokens * ring.g * ring.k * if dtype == Dtype::Float32 { 4 } else { 2 };
            assert_eq!(report.buffer("keys").unwrap().read, bytes as u64, "{ring:?}");
        }
    }
}

/// The kernel takes the noise of MLX: it draws the tokens that MLX's operations draw.
#[test]
fn draws_are_those_of_mlx() {
    for (b, vocab, width, dtype, temperature, depth) in [
        (3, 701, 704, Dtype::Float32, 0.8, f32::INFINITY),
        (4, 37, 37, Dtype::Bfloat16, 1.0, 2.0),
        (40, 6, 8, Dtype::Float16, 2.5, f32::INFINITY),
    ] {
        let logits = Values(vocab as u64).take(b * width, 6.0, dtype);
        let launch = draw_launch([b, width], dtype, vocab).unwrap();
        let keys = RandomKey([0x1234_5678, 0xfedc_ba98]).split(b as u32);
        let words: Vec<f64> = keys.iter().flat_map(|key| key.0.map(f64::from)).collect();
        let limits = [temperature, depth].map(f64::from);
        let (outputs, _) = run_launch(
            &launch,
            &[
                buffer(dtype, &[b, width], &logits),
                buffer(Dtype::Uint32, &[b, 2], &words),
                buffer(Dtype::Float32, &[2], &limits),
            ],
        );
        let draw = Draw { vocab, temperature, depth, keys: &keys };
        let expected = Backend::PLAIN.draw(&array(dtype, &[b, width], &logits), &draw).unwrap();
        assert_eq!(outputs[0].to_f64(), support::values(&expected), "{b} {vocab} {dtype:?}");
    }
}
