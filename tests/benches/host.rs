//! Measures the host's time to build the graph of one decoding step of 16 layers; nothing is
//! evaluated. `cargo bench -p mlx-llamba-tests --bench host`
//!
//! The Metal graph is the one that a Mac builds, recorded here without running it.

#![allow(clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use mlx_llamba::kernels::{Backend, Mode, Scheme};
use mlx_llamba::mlx::Dtype;
use mlx_llamba::{Config, Model};
use mlx_llamba_tests::graph::while_exporting;
use mlx_rs::Array;

/// Llamba-1B with narrower matrices, whose sizes do not matter to the host.
fn model(dtype: Dtype, backend: Backend) -> Model {
    let json = serde_json::json!({
        "model_type": "llamba", "vocab_size": 64, "tie_embeddings": true,
        "d_model": 128, "n_layer": 16,
        "mlp_cfg": { "intermediate_size": 256, "bias": false, "act_fn": "silu" },
        "ssm_cfg": { "d_state": 64, "n_v_heads": 2, "n_qk_heads": 2, "expand": 1,
            "chunk_size": 128, "activation": "identity", "bias": false },
    });
    let config = Config::from_json("config.json".as_ref(), &json.to_string()).unwrap();
    let scheme = Scheme::new(64, 4, Mode::Affine).unwrap();
    let model = Model::random_with_backend(config, Some(scheme), dtype, backend).unwrap();
    model.materialize(&mut mlx_llamba::progress::ignore).unwrap();
    model
}

fn step(c: &mut Criterion) {
    let backends = [
        ("plain", Backend::PLAIN, Dtype::Float32),
        ("cpu", Backend::CPU, Dtype::Float32),
        ("metal", Backend::METAL, Dtype::Bfloat16),
    ];
    for (name, backend, dtype) in backends {
        let model = model(dtype, backend);
        let state = model.state(1).unwrap();
        state.eval().unwrap();
        let token = Array::from_slice(&[1u32], &[1, 1]);
        let mut bench = || {
            c.bench_function(&format!("build one step of 16 layers, {name}"), |b| {
                b.iter(|| {
                    let (hidden, next) = model.hidden(&token, None, &state).unwrap();
                    (model.head(&hidden).unwrap(), next)
                });
            });
        };
        if backend == Backend::METAL {
            while_exporting(bench);
        } else {
            bench();
        }
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
