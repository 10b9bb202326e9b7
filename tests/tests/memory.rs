//! The memory that `inspect` and `doctor` say a model needs, against the memory that MLX takes.
//!
//! One test: MLX counts the memory of the whole process.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use mlx_llamba::kernels::{Mode, Scheme};
use mlx_llamba::mlx::Dtype;
use mlx_llamba::{Config, Model};
use mlx_rs::memory;
use serde_json::json;

/// The most that MLX has at once while a model of random weights reads 1024 tokens in two pieces.
fn measure(config: &Config, bits: Option<usize>) -> usize {
    let scheme = bits.map(|bits| Scheme::new(64, bits, Mode::Affine).unwrap());
    let model = Model::random(config.clone(), scheme, Dtype::Float32).unwrap();
    model.materialize(&mut mlx_llamba::progress::ignore).unwrap();
    memory::clear_cache().unwrap();
    memory::reset_peak_memory().unwrap();
    let mut state = model.state(1).unwrap();
    for piece in 0..2u32 {
        let tokens: Vec<u32> = (0..512).map(|i| (piece + 7 * i) % 99).collect();
        let (tokens, _) = model.tokens(&[&tokens]).unwrap();
        let (hidden, next) = model.hidden(&tokens, None, &state).unwrap();
        next.eval().unwrap();
        hidden.eval().unwrap();
        state = next;
    }
    memory::peak_memory().unwrap()
}

#[test]
fn what_a_model_needs_is_what_it_takes() {
    for (layers, width, mlp, heads, state, vocab, bits) in [
        (16, 256, 1024, 4, 64, 999, Some(4)),
        (3, 320, 448, 5, 32, 20_000, None),
        (9, 128, 768, 8, 96, 3000, Some(8)),
    ] {
        let json = json!({
            "model_type": "llamba", "vocab_size": vocab, "tie_embeddings": true,
            "d_model": width, "n_layer": layers,
            "mlp_cfg": { "intermediate_size": mlp, "bias": false, "act_fn": "silu" },
            "ssm_cfg": { "d_state": state, "n_v_heads": heads, "n_qk_heads": heads, "expand": 1,
                         "activation": "identity", "bias": false },
        });
        let config = Config::from_json(Path::new("test"), &json.to_string()).unwrap();
        let said = (config.weight_bytes(bits, 4) + config.working_bytes()) as f64;
        let taken = measure(&config, bits) as f64;
        assert!((said / taken - 1.0).abs() < 0.25, "{layers} layers of {width}: {said}, {taken}");
    }
}
