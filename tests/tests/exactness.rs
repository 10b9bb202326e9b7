//! The model against the float64 oracle's golden numbers, for every fixture: logits of every
//! position, both states of every layer, and greedy continuations, however the prompt is read.

#![allow(clippy::unwrap_used)]

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::floats;
use mlx_llamba::{Checkpoint, Model, State};
use mlx_llamba_tests::BACKENDS;
use mlx_llamba_tests::fixtures::{self, Golden};
use mlx_rs::{Array, Dtype};

/// Largest error of a logit, relative to the largest logit; measured below 3e-6.
const LOGITS: f32 = 6e-6;
/// Largest error of a state, relative to its largest value; measured below 3e-6.
const STATES: f32 = 6e-6;

/// The same with activations that are rounded to int8.
const INT8_LOGITS: f32 = 4e-2;

/// The quantized fixture with activations in int8.
fn int8() -> (&'static str, Model) {
    let checkpoint = Checkpoint::open(fixtures::path("m_mlx_4bit")).unwrap();
    let model = Model::with_backend(&checkpoint, Dtype::Float32, Backend::CPU_INT8).unwrap();
    ("m_mlx_4bit", model)
}

/// Every fixture on every back end of this machine.
fn all() -> impl Iterator<Item = (&'static str, Model)> {
    fixtures::PYTORCH.into_iter().chain(fixtures::CARTESIA).flat_map(|fixture| {
        let checkpoint = Checkpoint::open(fixtures::path(fixture)).unwrap();
        let model =
            move |backend| Model::with_backend(&checkpoint, Dtype::Float32, backend).unwrap();
        BACKENDS.into_iter().map(move |backend| (fixture, model(backend)))
    })
}

/// Compares and prints the first five mismatches.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let pairs = found.iter().zip(expected).enumerate();
    let bad: Vec<_> = pairs
        .filter(|(_, (f, e))| (*f - *e).abs() > tolerance * scale || f.is_nan())
        .take(5)
        .map(|(i, (f, e))| format!("[{i}] {f} instead of {e}"))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

/// Reads `tokens` in pieces that end at `cuts` and at the end: logits (l, vocab) and the state.
fn read(model: &Model, tokens: &[u32], cuts: &[usize]) -> (Vec<f32>, State) {
    let (mut state, mut logits, mut start) = (model.state(1).unwrap(), Vec::new(), 0);
    for end in cuts.iter().copied().chain([tokens.len()]) {
        let (ids, lengths) = model.tokens(&[&tokens[start..end]]).unwrap();
        let (piece, next) = model.forward(&ids, lengths.as_ref(), &state).unwrap();
        logits.extend(floats(&piece).unwrap());
        (state, start) = (next, end);
    }
    (logits, state)
}

/// Both states of every layer. The golden convolution state is (conv_dim, k), of which the model
/// keeps the last k-1 inputs, in time order.
fn assert_states(what: &str, state: &State, golden: &Golden) {
    assert_eq!(state.layers().len(), golden.ssm_states.len(), "{what}: layers");
    let expected = golden.ssm_states.iter().zip(&golden.conv_states);
    for (i, (layer, (ssm, conv))) in state.layers().iter().zip(expected).enumerate() {
        assert_close(
            &format!("{what}: ssm {i}"),
            &floats(&layer.ssm).unwrap(),
            &ssm.values,
            STATES,
        );
        let [channels, k] = conv.shape[..] else { panic!("{what}: shape of conv {i}") };
        let kept: Vec<f32> = (1..k)
            .flat_map(|tap| (0..channels).map(move |channel| channel * k + tap))
            .map(|place| conv.values[place])
            .collect();
        assert_close(&format!("{what}: conv {i}"), &floats(&layer.conv).unwrap(), &kept, STATES);
    }
}

fn check(what: &str, model: &Model, golden: &Golden, cuts: &[usize]) {
    let what = format!("{what}, {:?}", model.backend());
    let (logits, state) = read(model, &golden.tokens, cuts);
    assert_close(&format!("{what}: logits"), &logits, &golden.logits.values, LOGITS);
    assert_states(&what, &state, golden);
}

#[test]
fn one_shot() {
    for (fixture, model) in all() {
        for golden in fixtures::golden(fixture) {
            check(&format!("{fixture} {}", golden.name), &model, &golden, &[]);
        }
    }
}

#[test]
fn every_split() {
    for (fixture, model) in all() {
        for golden in fixtures::golden(fixture) {
            let l = golden.tokens.len();
            // All cuts of the shorter prompts; around chunk borders and every 23rd of the longer.
            let near = |cut: &usize| l < 10 || (*cut + 2) % 64 < 5 || cut.is_multiple_of(23);
            for cut in (1..l).filter(near) {
                check(&format!("{fixture} {} cut at {cut}", golden.name), &model, &golden, &[cut]);
            }
            if l > 8 {
                check(
                    &format!("{fixture} {} in 5", golden.name),
                    &model,
                    &golden,
                    &[1, 2, 7, l - 1],
                );
            }
        }
    }
}

#[test]
fn token_by_token() {
    for (fixture, model) in all() {
        for golden in fixtures::golden(fixture) {
            let cuts: Vec<usize> = (1..golden.tokens.len()).collect();
            check(&format!("{fixture} {} by token", golden.name), &model, &golden, &cuts);
        }
    }
}

/// Rows of different lengths in one forward, all prompts of a fixture at once.
#[test]
fn ragged_batch() {
    for (fixture, model) in all() {
        let goldens = fixtures::golden(fixture);
        let rows: Vec<&[u32]> = goldens.iter().map(|g| g.tokens.as_slice()).collect();
        let (ids, lengths) = model.tokens(&rows).unwrap();
        assert!(lengths.is_some());
        let state = model.state(rows.len()).unwrap();
        let (logits, state) = model.forward(&ids, lengths.as_ref(), &state).unwrap();
        let per_row = logits.size() / rows.len();
        let logits = floats(&logits).unwrap();
        for (row, golden) in goldens.iter().enumerate() {
            let what = format!("{fixture} {} as row {row}, {:?}", golden.name, model.backend());
            let logits = &logits[row * per_row..][..golden.logits.values.len()];
            assert_close(&format!("{what}: logits"), logits, &golden.logits.values, LOGITS);
            assert_states(&what, &state.row(row).unwrap(), golden);
        }
    }
}

/// Greedy continuations of all prompts as one batch, from states that were read one by one.
#[test]
fn greedy_continuations() {
    for (fixture, model) in all() {
        let goldens = fixtures::golden(fixture);
        let (mut last, mut states) = (Vec::new(), Vec::new());
        let vocab = model.config().padded_vocab();
        let argmax = |logits: &[f32]| {
            let best = logits[..model.config().vocab_size].iter().enumerate();
            best.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32
        };
        for golden in &goldens {
            let (logits, state) = read(&model, &golden.tokens, &[]);
            last.push(argmax(&logits[logits.len() - vocab..]));
            states.push(state);
        }
        let mut state = State::stack(&states).unwrap();
        for step in 0..32 {
            for (id, golden) in last.iter().zip(&goldens) {
                assert_eq!(*id, golden.greedy[step], "{fixture} {} token {step}", golden.name);
            }
            let ids = Array::from_slice(&last, &[last.len() as i32, 1]);
            let (logits, next) = model.forward(&ids, None, &state).unwrap();
            last = floats(&logits).unwrap().chunks_exact(vocab).map(argmax).collect();
            state = next;
        }
    }
}

/// The kernels for CPUs give the same bits however a prompt is cut, and in a batch as alone.
#[test]
fn on_a_cpu_cuts_and_batches_do_not_change_a_bit() {
    let models = all().filter(|(_, model)| model.backend() == Backend::CPU);
    for (fixture, model) in models.chain([int8()]) {
        let goldens = fixtures::golden(fixture);
        let rows: Vec<&[u32]> = goldens.iter().map(|g| g.tokens.as_slice()).collect();
        let (ids, lengths) = model.tokens(&rows).unwrap();
        let start = model.state(rows.len()).unwrap();
        let (batch, batch_state) = model.forward(&ids, lengths.as_ref(), &start).unwrap();
        let batch = floats(&batch).unwrap();
        let bits = |state: &State| -> Vec<f32> {
            let layers = state.layers().iter();
            layers.flat_map(|l| [&l.conv, &l.ssm]).flat_map(|a| floats(a).unwrap()).collect()
        };
        for (row, golden) in goldens.iter().enumerate() {
            let what = format!("{fixture} {}", golden.name);
            let l = golden.tokens.len();
            let (logits, state) = read(&model, &golden.tokens, &[]);
            let padded = &batch[row * batch.len() / rows.len()..][..logits.len()];
            assert!(logits == padded, "{what}: logits of row {row}");
            let in_batch = bits(&batch_state.row(row).unwrap());
            assert!(bits(&state) == in_batch, "{what}: state of row {row}");
            for cuts in [vec![l / 2], vec![1, l / 3, l - 1], (1..l).collect()] {
                let cuts: Vec<usize> = cuts.into_iter().filter(|&c| c > 0 && c < l).collect();
                if !cuts.is_sorted_by(|a, b| a < b) {
                    continue;
                }
                let (piecewise, after) = read(&model, &golden.tokens, &cuts);
                assert!(logits == piecewise, "{what}: logits cut at {cuts:?}");
                assert!(bits(&state) == bits(&after), "{what}: state cut at {cuts:?}");
            }
        }
    }
}

#[test]
fn int8_activations_are_near_and_not_the_same() {
    let (fixture, model) = int8();
    let mut worst = 0f32;
    for golden in fixtures::golden(fixture) {
        let (logits, _) = read(&model, &golden.tokens, &[]);
        let expected = &golden.logits.values;
        let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        let errors = logits.iter().zip(expected).map(|(f, e)| (f - e).abs() / scale);
        worst = worst.max(errors.fold(0.0, f32::max));
        assert_close(&golden.name, &logits, expected, INT8_LOGITS);
    }
    println!("largest error {worst:.1e}");
    assert!(worst > LOGITS, "nothing was rounded: {worst}");
}
