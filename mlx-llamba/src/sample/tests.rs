//! Every step against numbers worked out by hand, then combinations and the whole sampler.

#![allow(clippy::unwrap_used, clippy::panic)]

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use super::transform::{self, Bias};
use super::{History, Sampler, Sampling};
use crate::Error;

const INF: f32 = f32::INFINITY;

fn row(values: &[f32]) -> Array {
    Array::from_slice(values, &[1, values.len() as i32])
}

/// Logits whose softmax is `p`.
fn logits_of(p: &[f32]) -> Array {
    row(&p.iter().map(|p| p.ln()).collect::<Vec<_>>())
}

fn floats(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact().unwrap()
}

fn ids(array: &Array) -> Vec<u32> {
    array.contiguous().unwrap().to_vec_exact().unwrap()
}

fn tokens(values: &[u32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape)
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let near = |f: f32, e: f32| f == e || e.is_finite() && (f - e).abs() <= 2e-6 * e.abs().max(1.0);
    let all = found.iter().zip(expected).all(|(&f, &e)| near(f, e));
    assert!(all, "found {found:?}\nexpected {expected:?}");
}

fn kept(x: &Array, k: usize, p: f32) -> Vec<usize> {
    let x = floats(&transform::truncate(x, k, p).unwrap());
    (0..x.len()).filter(|&i| x[i] > -INF).collect()
}

fn sampler(sampling: Sampling, vocab: usize) -> Sampler {
    Sampler::new(&sampling, vocab).unwrap()
}

#[test]
fn bias_adds_bans_and_forces() {
    let x = row(&[1.0, 2.0, 3.0, 4.0]);
    let with = |pairs: &[(u32, f32)]| floats(&Bias::new(pairs, 4).unwrap().apply(&x).unwrap());
    assert_close(&with(&[(0, 2.5), (2, -1.0)]), &[3.5, 2.0, 2.0, 4.0]);
    assert_close(&with(&[(3, -INF)]), &[1.0, 2.0, 3.0, -INF]);
    assert_close(&with(&[(0, INF), (1, INF), (3, 5.0)]), &[1.0, 2.0, -INF, -INF]);
    assert_close(&with(&[(1, 7.0), (1, -1.0)]), &[1.0, 1.0, 3.0, 4.0]);
    assert!(Bias::new(&[], 4).is_none());
}

#[test]
fn repetition_divides_positive_and_multiplies_negative_logits() {
    let x = row(&[3.0, -3.0, 0.0, 5.0, -INF]);
    let counts = row(&[2.0, 1.0, 1.0, 0.0, 1.0]);
    let y = transform::repetition(&x, &counts, 1.5).unwrap();
    assert_close(&floats(&y), &[2.0, -4.5, 0.0, 5.0, -INF]);
}

#[test]
fn frequency_counts_and_presence_does_not() {
    let x = row(&[1.0, 1.0, 1.0, -INF]);
    let counts = row(&[3.0, 1.0, 0.0, 2.0]);
    let y = transform::frequency_presence(&x, &counts, 0.5, 0.25).unwrap();
    assert_close(&floats(&y), &[1.0 - 1.5 - 0.25, 1.0 - 0.5 - 0.25, 1.0, -INF]);
}

#[test]
fn temperature_divides_and_survives_the_smallest() {
    let x = row(&[10.0, 12.0, 8.0]);
    assert_close(&floats(&transform::temperature(&x, 0.5).unwrap()), &[-4.0, 0.0, -8.0]);
    let tiny = floats(&transform::temperature(&x, Sampling::GREEDY_BELOW).unwrap());
    assert_close(&tiny, &[-2e5, 0.0, -4e5]);
    let huge = floats(&transform::temperature(&x, f32::MAX).unwrap());
    assert!(huge.iter().all(|x| x.abs() < 1e-30), "{huge:?}");
}

#[test]
fn top_k_keeps_exactly_k_and_the_lowest_ids_of_equals() {
    let x = row(&[1.0, 3.0, 2.0, 3.0, 2.0, 2.0]);
    assert_eq!(kept(&x, 1, 1.0), [1]);
    assert_eq!(kept(&x, 2, 1.0), [1, 3]);
    assert_eq!(kept(&x, 3, 1.0), [1, 2, 3]);
    assert_eq!(kept(&x, 4, 1.0), [1, 2, 3, 4]);
    assert_eq!(kept(&x, 6, 1.0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(&x, 7, 1.0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(&x, usize::MAX, 1.0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(&x, 0, 1.0), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(&row(&[0.0; 5]), 2, 1.0), [0, 1]);
    assert_eq!(kept(&row(&[-INF, 1.0, -INF, 0.0]), 3, 1.0), [1, 3]);
}

#[test]
fn top_p_keeps_the_token_that_crosses() {
    let x = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(kept(&x, 0, 1e-9), [1]);
    assert_eq!(kept(&x, 0, 0.39), [1]);
    assert_eq!(kept(&x, 0, 0.41), [1, 3]);
    assert_eq!(kept(&x, 0, 0.69), [1, 3]);
    assert_eq!(kept(&x, 0, 0.71), [1, 2, 3]);
    assert_eq!(kept(&x, 0, 0.91), [0, 1, 2, 3]);
    assert_eq!(kept(&x, 0, 1.0), [0, 1, 2, 3]);
    // Four equal quarters: half of them, then the one that crosses; lowest ids first.
    let equal = row(&[2.0; 4]);
    assert_eq!(kept(&equal, 0, 0.3), [0, 1]);
    assert_eq!(kept(&equal, 0, 0.6), [0, 1, 2]);
    // Rounding keeps the sum below p: everything stays, and nothing is read past the end.
    assert_eq!(kept(&row(&[0.0; 1000]), 0, 0.999_999_94).len(), 1000);
}

#[test]
fn top_p_renormalises_what_top_k_left() {
    // The two largest are 4/7 and 3/7 of each other: 0.57 and 0.43.
    let x = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(kept(&x, 2, 0.5), [1]);
    assert_eq!(kept(&x, 0, 0.5), [1, 3]);
    assert_eq!(kept(&x, 2, 0.6), [1, 3]);
    assert_eq!(kept(&x, 3, 0.9), [1, 2, 3]);
}

#[test]
fn min_p_is_relative_to_the_largest() {
    // Every token that is left is drawn in some of the rows.
    let drawn = |x: &Array, sampling: Sampling| -> std::collections::BTreeSet<u32> {
        let rows = mlx_rs::ops::broadcast_to(x, &[2000, x.dim(1)]).unwrap();
        let mut sampler = sampler(Sampling { seed: Some(1), ..sampling }, x.dim(1) as usize);
        ids(&sampler.sample(&rows).unwrap()).into_iter().collect()
    };
    let x = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    let kept = |min_p: f32| -> Vec<u32> {
        drawn(&x, Sampling { min_p, ..Sampling::plain() }).into_iter().collect()
    };
    assert_eq!(kept(0.0), [0, 1, 2, 3]);
    assert_eq!(kept(0.24), [0, 1, 2, 3]);
    assert_eq!(kept(0.26), [1, 2, 3]);
    assert_eq!(kept(0.51), [1, 3]);
    assert_eq!(kept(0.76), [1]);
    assert_eq!(kept(1.0), [1]);
    // After top-k too.
    let two = Sampling { min_p: 0.51, top_k: 3, ..Sampling::plain() };
    assert_eq!(drawn(&x, two).into_iter().collect::<Vec<_>>(), [1, 3]);
    let equal = Sampling { min_p: 1.0, ..Sampling::plain() };
    assert_eq!(drawn(&row(&[5.0; 3]), equal).len(), 3);
}

#[test]
fn history_counts_with_and_without_window() {
    let mut all = History::new(5, None);
    assert!(all.counts().unwrap().is_none());
    all.push(&tokens(&[1, 1, 4, 9], &[1, 4])).unwrap(); // 9 is outside
    all.push(&tokens(&[0, 3], &[2, 1])).unwrap(); // a prompt shared by two rows
    let counts = all.counts().unwrap().unwrap();
    assert_eq!(counts.shape(), [2, 5]);
    assert_close(&floats(&counts), &[1.0, 2.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 1.0]);

    let mut windowed = History::new(5, Some(3));
    windowed.push(&tokens(&[1, 1, 4, 4, 2, 2, 3, 0], &[2, 4])).unwrap();
    assert_close(
        &floats(&windowed.counts().unwrap().unwrap()),
        &[0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 0.0],
    );
    windowed.push(&tokens(&[0, 0], &[2, 1])).unwrap();
    assert_close(
        &floats(&windowed.counts().unwrap().unwrap()),
        &[1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 1.0, 0.0],
    );
}

#[test]
fn greedy_takes_the_lowest_id_of_equals_and_never_padding() {
    let mut greedy = sampler(Sampling::greedy(), 3);
    let logits = tokens(&[0; 2], &[2]);
    assert!(matches!(greedy.sample(&logits), Err(Error::Shape(_))));
    assert!(matches!(greedy.sample(&row(&[1.0, 2.0])), Err(Error::Shape(_))));
    let x = Array::from_slice(&[1.0f32, 2.0, 2.0, 9.0, 5.0, 0.0, 4.0, 9.0], &[2, 4]);
    assert_eq!(ids(&greedy.sample(&x).unwrap()), [1, 0]);
    let half = x.as_dtype(Dtype::Bfloat16).unwrap();
    assert_eq!(ids(&greedy.sample(&half).unwrap()), [1, 0]);
}

#[test]
fn padding_is_never_drawn() {
    let mut plain = sampler(Sampling { seed: Some(1), ..Sampling::plain() }, 2);
    let x = row(&[0.0, 0.0, 50.0, f32::NAN]);
    for _ in 0..50 {
        assert!(ids(&plain.sample(&x).unwrap())[0] < 2);
    }
}

#[test]
fn repetition_sees_prompt_and_output_the_others_only_output() {
    let x = row(&[4.0, 3.9, 3.0]);
    let first = |sampling: Sampling| {
        let mut sampler = sampler(sampling, 3);
        sampler.observe(&tokens(&[0, 0], &[1, 2])).unwrap();
        (0..3).map(|_| ids(&sampler.sample(&x).unwrap())[0]).collect::<Vec<_>>()
    };
    let greedy = Sampling::greedy();
    // 4/2, 3.9, 3 -> 1; 4/2, 3.9/2, 3 -> 2; 4/2, 3.9/2, 3/2 -> 0
    assert_eq!(first(Sampling { repetition_penalty: 2.0, ..greedy.clone() }), [1, 2, 0]);
    // 4, 3.9, 3 -> 0; 2.8, 3.9, 3 -> 1; 2.8, 2.7, 3 -> 2
    assert_eq!(first(Sampling { presence_penalty: 1.2, ..greedy.clone() }), [0, 1, 2]);
    // 4 -> 0; 3.5, 3.9 -> 1; 3.5, 3.4, 3 -> 0
    assert_eq!(first(Sampling { frequency_penalty: 0.5, ..greedy.clone() }), [0, 1, 0]);
    // A window of one forgets: 0 is penalised, then only 1, then only 0.
    let window = Sampling { repetition_penalty: 2.0, penalty_window: Some(1), ..greedy };
    assert_eq!(first(window), [1, 0, 1]);
}

#[test]
fn bias_comes_before_penalties_and_temperature_before_truncation() {
    // Biased to 6, then halved to 3: below 4. Halved first it would be 1 + 4 = 5.
    let sampling =
        Sampling { repetition_penalty: 2.0, logit_bias: vec![(0, 4.0)], ..Sampling::greedy() };
    let mut biased = sampler(sampling, 2);
    biased.observe(&tokens(&[0], &[1, 1])).unwrap();
    assert_eq!(ids(&biased.sample(&row(&[2.0, 4.0])).unwrap()), [1]);
    // 0.6, 0.4 at temperature 0.25 are 0.835, 0.165: top-p 0.8 leaves one. At 1 it leaves two.
    let cold = Sampling { temperature: 0.25, top_p: 0.8, ..Sampling::plain() };
    for seed in 0..30 {
        let mut cold = sampler(Sampling { seed: Some(seed), ..cold.clone() }, 2);
        assert_eq!(ids(&cold.sample(&logits_of(&[0.4, 0.6])).unwrap()), [1]);
    }
}

#[test]
fn truncations_to_one_token_are_greedy() {
    let x = Array::from_slice(&[0.1f32, 0.3, 0.2, 7.0, 7.0, 6.0], &[2, 3]);
    for sampling in [
        Sampling { top_k: 1, ..Sampling::plain() },
        Sampling { top_p: 1e-6, ..Sampling::plain() },
        Sampling { temperature: Sampling::GREEDY_BELOW / 2.0, ..Sampling::plain() },
        Sampling { top_k: 1, top_p: 0.5, min_p: 1.0, temperature: 30.0, ..Sampling::plain() },
    ] {
        for seed in 0..10 {
            let mut sampler = sampler(Sampling { seed: Some(seed), ..sampling.clone() }, 3);
            assert_eq!(ids(&sampler.sample(&x).unwrap()), [1, 0], "{sampling:?}");
        }
    }
}

#[test]
fn forced_and_banned_tokens_hold_against_any_draw() {
    let forced = Sampling { logit_bias: vec![(2, INF)], seed: Some(3), ..Sampling::default() };
    let mut forced = sampler(forced, 4);
    let bans = (0..64).filter(|&id| id != 40).map(|id| (id, -INF)).collect();
    let only = Sampling { logit_bias: bans, seed: Some(3), ..Sampling::default() };
    let mut only = sampler(only, 64);
    for _ in 0..40 {
        assert_eq!(ids(&forced.sample(&row(&[9.0, 8.0, -50.0, 1.0])).unwrap()), [2]);
        assert_eq!(ids(&only.sample(&row(&[0.0; 64])).unwrap()), [40]);
    }
}

#[test]
fn draws_follow_the_distribution_in_every_row() {
    let p = [0.5f32, 0.25, 0.15, 0.1];
    let mut plain = sampler(Sampling { seed: Some(42), ..Sampling::plain() }, 4);
    let (b, steps) = (1000, 10);
    let x = logits_of(&p).as_dtype(Dtype::Float32).unwrap();
    let x = mlx_rs::ops::broadcast_to(&x, &[b, 4]).unwrap();
    let mut counts = [0.0f32; 4];
    let mut equal_steps = 0;
    let mut previous = Vec::new();
    for _ in 0..steps {
        let drawn = ids(&plain.sample(&x).unwrap());
        drawn.iter().for_each(|&id| counts[id as usize] += 1.0);
        equal_steps += usize::from(drawn == previous);
        previous = drawn;
    }
    assert_eq!(equal_steps, 0, "the key does not advance");
    // 10 000 draws: four standard deviations are at most 0.02.
    for (count, p) in counts.iter().zip(p) {
        assert!((count / 10_000.0 - p).abs() < 0.02, "{counts:?}");
    }
}

#[test]
fn truncated_draws_keep_their_proportions() {
    let x = mlx_rs::ops::broadcast_to(logits_of(&[0.1, 0.4, 0.2, 0.3]), &[4000, 4]).unwrap();
    let mut two = sampler(Sampling { seed: Some(5), top_k: 2, ..Sampling::plain() }, 4);
    let drawn = ids(&two.sample(&x).unwrap());
    let share = drawn.iter().filter(|&&id| id == 1).count() as f32 / 4000.0;
    assert!(drawn.iter().all(|&id| id == 1 || id == 3));
    assert!((share - 4.0 / 7.0).abs() < 0.035, "{share}");
}

#[test]
fn equal_seeds_reproduce_and_the_generator_can_be_put_back() {
    let x = row(&[0.0; 1000]);
    let run = |sampler: &mut Sampler| -> Vec<u32> {
        (0..5).map(|_| ids(&sampler.sample(&x).unwrap())[0]).collect()
    };
    let seeded = |seed| sampler(Sampling { seed: Some(seed), ..Sampling::plain() }, 1000);
    let mut a = seeded(7);
    let first = run(&mut a);
    assert_eq!(first, run(&mut seeded(7)));
    assert_ne!(first, run(&mut seeded(8)));
    let state = a.rng_state();
    let second = run(&mut a);
    assert_ne!(first, second);
    let mut b = seeded(0);
    b.restore(state);
    assert_eq!(second, run(&mut b));

    let unseeded = sampler(Sampling::plain(), 1000);
    assert_ne!(unseeded.seed(), sampler(Sampling::plain(), 1000).seed());
    assert_eq!(run(&mut seeded(unseeded.seed())), run(&mut unseeded.clone()));
}

#[test]
fn a_batch_is_its_rows_alone() {
    let (b, vocab) = (3, 50);
    let x = mlx_rs::random::normal::<f32>(&[b, vocab], None, 3.0, &mlx_rs::random::key(1).unwrap());
    let x = x.unwrap();
    for (k, p) in [(0, 1.0), (7, 1.0), (0, 0.8), (9, 0.7)] {
        let whole = floats(&transform::truncate(&x, k, p).unwrap());
        let mut alone = Vec::new();
        for i in 0..b {
            let row = mlx_rs::ops::indexing::TryIndexOp::try_index(&x, i..i + 1).unwrap();
            alone.extend(floats(&transform::truncate(&row, k, p).unwrap()));
        }
        assert_eq!(whole, alone, "k {k}, p {p}");
    }
}

/// Samplers whose rows come and go draw what each draws alone.
#[test]
fn samplers_together_are_each_alone() {
    let vocab = 60;
    let plain = || Sampling::plain().seed(3);
    let kinds = [
        plain(),
        Sampling::greedy(),
        Sampling::greedy().repetition_penalty(1.5),
        plain().repetition_penalty(1.3).temperature(0.7),
        plain().frequency_penalty(0.5).presence_penalty(0.2).penalty_window(4),
        plain().repetition_penalty(1.2).penalty_window(5).top_k(9).top_p(0.8),
        plain().min_p(0.1).logit_bias(vec![(5, f32::NEG_INFINITY)]),
    ];
    let new = |i: usize| {
        let sampling = kinds[i % kinds.len()].clone();
        let seed = sampling.seed.map(|seed| seed + i as u64);
        let mut sampler = sampler(Sampling { seed, ..sampling }, vocab);
        // Prompts of different lengths, some of them empty.
        let prompt: Vec<u32> = (0..i % 4).map(|j| (i * 7 + j * 5) as u32 % 60).collect();
        if !prompt.is_empty() {
            sampler.observe(&tokens(&prompt, &[1, prompt.len() as i32])).unwrap();
        }
        sampler
    };
    let mut together: Vec<Sampler> = (0..9).map(new).collect();
    let mut alone: Vec<Sampler> = (0..9).map(new).collect();
    for step in 0..12_usize {
        if step == 4 {
            together.extend((9..20).map(new));
            alone.extend((9..20).map(new));
        }
        if step == 8 {
            for samplers in [&mut together, &mut alone] {
                samplers.remove(0);
                samplers.remove(6);
            }
        }
        let b = alone.len() as i32;
        let key = mlx_rs::random::key(step as u64).unwrap();
        let x = mlx_rs::random::normal::<f32>(&[b, 64], None, 2.0, &key).unwrap();

        let mut all: Vec<&mut Sampler> = together.iter_mut().collect();
        let found = ids(&Sampler::sample_each(&mut all, &x).unwrap());

        for (i, sampler) in alone.iter_mut().enumerate() {
            let row = x.try_index((i as i32..i as i32 + 1, ..)).unwrap();
            assert_eq!(found[i], ids(&sampler.sample(&row).unwrap())[0], "row {i} of step {step}");
        }
    }
}

#[test]
fn sampling_evaluates_nothing() {
    let available = |array: &Array| {
        let mut out = true;
        // SAFETY: `array` is alive and `out` is valid to write to.
        let status = unsafe { mlx_sys::_mlx_array_is_available(&raw mut out, array.as_ptr()) };
        assert_eq!(status, 0);
        out
    };
    let sampling = Sampling {
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        penalty_window: Some(4),
        min_p: 0.01,
        ..Sampling::default()
    };
    let mut sampler = sampler(sampling, 8);
    let logits = row(&[1.0; 8]).multiply(row(&[2.0; 8])).unwrap();
    sampler.observe(&tokens(&[1, 2], &[1, 2])).unwrap();
    let first = sampler.sample(&logits).unwrap();
    let second = sampler.sample(&logits).unwrap();
    let logprobs = sampler.logprobs(&logits, &second, 3).unwrap();
    for array in [&logits, &first, &second, &logprobs.chosen, &logprobs.top] {
        assert!(!available(array));
    }
    assert!(ids(&second)[0] < 8);
}

#[test]
fn logprobs_are_of_the_model_and_not_of_the_options() {
    let x = Array::from_slice(
        &[0.1f32, 0.4, 0.2, 0.3, 0.9, 0.25, 0.25, 0.25, 0.25, 0.9].map(f32::ln),
        &[2, 5],
    );
    let mut sampler = sampler(Sampling { logit_bias: vec![(0, 9.0)], ..Sampling::default() }, 4);
    sampler.sample(&x).unwrap();
    let found = sampler.logprobs(&x, &tokens(&[2, 3], &[2]), 3).unwrap();
    assert_close(&floats(&found.chosen), &[0.2f32.ln(), 0.25f32.ln()]);
    assert_eq!(&ids(&found.top_ids)[..3], [1, 3, 2]);
    assert_close(&floats(&found.top)[..3], &[0.4f32, 0.3, 0.2].map(f32::ln));
    assert_close(&floats(&found.top)[3..], &[0.25f32.ln(); 3]);
    let all = sampler.logprobs(&x, &tokens(&[2, 3], &[2]), 99).unwrap();
    assert_eq!(ids(&all.top_ids), [1, 3, 2, 0, 0, 1, 2, 3]);
    let none = sampler.logprobs(&x, &tokens(&[2, 3], &[2]), 0).unwrap();
    assert_eq!(none.top_ids.shape(), [2, 0]);
    assert_close(&floats(&none.chosen), &[0.2f32.ln(), 0.25f32.ln()]);
    assert!(matches!(sampler.logprobs(&x, &tokens(&[2], &[1]), 0), Err(Error::Shape(_))));
}

#[test]
fn equal_logprobs_stand_in_the_order_of_their_ids() {
    let mut x = vec![0.0f32; 1000];
    for id in [900, 10, 500, 333, 700] {
        x[id] = 1.0;
    }
    x[501] = 2.0;
    let sampler = sampler(Sampling::greedy(), 1000);
    let found = sampler.logprobs(&row(&x), &tokens(&[0], &[1]), 6).unwrap();
    assert_eq!(ids(&found.top_ids), [501, 10, 333, 500, 700, 900]);
}

#[test]
fn impossible_options_are_named() {
    let bad = |change: &dyn Fn(&mut Sampling)| {
        let mut sampling = Sampling::plain();
        change(&mut sampling);
        match sampling.validate(3) {
            Err(Error::Argument { name: option, .. }) => option,
            other => panic!("{other:?} for {sampling:?}"),
        }
    };
    for value in [-0.1, f32::NAN, INF] {
        assert_eq!(bad(&|s| s.temperature = value), "temperature");
    }
    for value in [0.0, -1.0, 1.01, f32::NAN] {
        assert_eq!(bad(&|s| s.top_p = value), "top_p");
    }
    for value in [-0.1, 1.1, f32::NAN] {
        assert_eq!(bad(&|s| s.min_p = value), "min_p");
    }
    for value in [0.0, -1.0, INF, f32::NAN] {
        assert_eq!(bad(&|s| s.repetition_penalty = value), "repetition_penalty");
    }
    assert_eq!(bad(&|s| s.presence_penalty = INF), "presence_penalty");
    assert_eq!(bad(&|s| s.frequency_penalty = f32::NAN), "frequency_penalty");
    assert_eq!(bad(&|s| s.penalty_window = Some(0)), "penalty_window");
    assert_eq!(bad(&|s| s.logit_bias = vec![(3, 1.0)]), "logit_bias");
    assert_eq!(bad(&|s| s.logit_bias = vec![(0, f32::NAN)]), "logit_bias");
    assert_eq!(bad(&|s| s.logit_bias = (0..3).map(|id| (id, -INF)).collect()), "logit_bias");
    for good in [Sampling::default(), Sampling::greedy(), Sampling::plain()] {
        good.validate(3).unwrap();
    }
    let unbanned = vec![(0, -INF), (1, -INF), (2, -INF), (2, 0.0)];
    Sampling { logit_bias: unbanned, ..Sampling::plain() }.validate(3).unwrap();
}
