//! Every switch of the configuration, alone and together, against the float64 forward pass: the
//! legal forms that no published model uses.

#![allow(clippy::unwrap_used)]

use mlx_llamba::mlx::floats;
use mlx_llamba::{Checkpoint, Model};
use mlx_llamba_tests::BACKENDS;
use mlx_llamba_tests::tiny::Tiny;
use mlx_rs::Dtype;
use safetensors::Dtype as Stored;

/// Largest error, relative to the largest value; measured below 1e-6.
const TOLERANCE: f64 = 4e-6;

fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let error = |(f, e): (&f32, &f64)| (f64::from(*f) - e).abs();
    let worst = found.iter().zip(expected).map(error).fold(0.0, f64::max);
    assert!(found.iter().all(|v| v.is_finite()) && worst <= TOLERANCE * scale, "{what}: {worst}");
}

fn check(what: &str, tiny: &Tiny, stored: Stored, shards: usize) {
    let directory = tempfile::tempdir().unwrap();
    let tensors = tiny.tensors(7);
    tiny.write(directory.path(), &tensors, stored, shards);
    let tokens: Vec<u32> = (0..70).map(|i| i * 31 % tiny.vocab as u32).collect();
    let (expected, states) = tiny.forward(&tensors, &tokens);

    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for backend in BACKENDS {
        let what = format!("{what}, {backend:?}");
        let model = Model::with_backend(&checkpoint, Dtype::Float32, backend).unwrap();
        // In two pieces, the second one from a state that is not zero.
        let (mut state, mut logits) = (model.state(1).unwrap(), Vec::new());
        for piece in [&tokens[..3], &tokens[3..]] {
            let (ids, _) = model.tokens(&[piece]).unwrap();
            let (output, next) = model.forward(&ids, None, &state).unwrap();
            logits.extend(floats(&output).unwrap());
            state = next;
        }
        assert_close(&format!("{what}: logits"), &logits, &expected);
        for (i, (layer, expected)) in state.layers().iter().zip(&states).enumerate() {
            let (ssm, conv) = (floats(&layer.ssm).unwrap(), floats(&layer.conv).unwrap());
            assert_close(&format!("{what}: ssm {i}"), &ssm, &expected.ssm);
            assert_close(&format!("{what}: conv {i}"), &conv, &expected.conv);
        }
    }
}

#[test]
fn each_switch_alone() {
    let base = Tiny::default;
    let variants = [
        ("base", base()),
        ("tied", Tiny { tied: true, ..base() }),
        ("head bias", Tiny { head_bias: true, ..base() }),
        ("tied, head bias", Tiny { tied: true, head_bias: true, ..base() }),
        ("MLP bias", Tiny { mlp_bias: true, ..base() }),
        ("mixer bias, no z_bias", Tiny { bias: true, ..base() }),
        ("no convolution bias", Tiny { conv_bias: false, ..base() }),
        ("silu", Tiny { silu: true, ..base() }),
        ("expand 3", Tiny { expand: 3, ..base() }),
        ("one group", Tiny { heads: [6, 1, 5, 4], ..base() }),
        ("groups as heads", Tiny { heads: [3, 3, 7, 4], ..base() }),
        ("convolution of 1", Tiny { heads: [4, 2, 5, 1], ..base() }),
        ("convolution of 2", Tiny { heads: [4, 2, 5, 2], ..base() }),
        ("convolution of 6", Tiny { heads: [4, 2, 5, 6], ..base() }),
        ("no padding", Tiny { pad: 1, ..base() }),
        ("one layer", Tiny { layers: 1, ..base() }),
    ];
    for (what, tiny) in variants {
        check(what, &tiny, Stored::F32, 1);
    }
}

#[test]
fn all_switches_together() {
    let tiny = Tiny {
        head_bias: true,
        mlp_bias: true,
        bias: true,
        conv_bias: false,
        silu: true,
        expand: 2,
        heads: [6, 3, 7, 3],
        layers: 3,
        ..Tiny::default()
    };
    check("all", &tiny, Stored::F32, 1);
}

#[test]
fn bfloat16_and_shards() {
    check("bfloat16", &Tiny::default(), Stored::BF16, 1);
    check("shards", &Tiny { tied: true, ..Tiny::default() }, Stored::F32, 3);
    check("bfloat16 shards", &Tiny { head_bias: true, ..Tiny::default() }, Stored::BF16, 2);
}
