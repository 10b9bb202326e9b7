//! The number of operations that a decoded token takes, counted in MLX's graph.

#![allow(clippy::unwrap_used)]

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::{Checkpoint, Model};
use mlx_llamba_kernels::cpu;
use mlx_llamba_tests::fixtures;
use mlx_llamba_tests::graph::{is_view, while_exporting};
use mlx_rs::Array;

/// Operations of one decoding step without views: from the first block's product to the final
/// norm, which takes the place of the norm before the first block.
fn step(model: &Model) -> Vec<String> {
    let state = model.state(1).unwrap();
    state.eval().unwrap();
    let token = Array::from_slice(&[1u32], &[1, 1]);
    let (hidden, next) = model.hidden(&token, None, &state).unwrap();
    let states = next.layers().iter().flat_map(|layer| [&layer.conv, &layer.ssm]);
    let outputs: Vec<&Array> = states.chain([&hidden]).collect();
    let names = cpu::primitives(&outputs).unwrap().into_iter();
    names.skip_while(|name| !name.contains("Matmul")).filter(|name| !is_view(name)).collect()
}

fn model(fixture: &str, dtype: Dtype, backend: Backend) -> Model {
    let checkpoint = Checkpoint::open(fixtures::path(fixture)).unwrap();
    let model = Model::with_backend(&checkpoint, dtype, backend).unwrap();
    model.materialize(&mut mlx_llamba::progress::ignore).unwrap();
    model
}

fn assert_eight(model: &Model, names: &[String]) {
    let layers = model.config().n_layer;
    assert!(layers >= 2);
    // Once a token the embedding's row may be made contiguous.
    let extra = names.len().checked_sub(8 * layers);
    assert!(matches!(extra, Some(0 | 1)), "{} for {layers} layers: {names:?}", names.len());
}

#[test]
fn eight_a_layer_on_a_cpu() {
    for fixture in ["a_base", "b_grouped"] {
        let model = model(fixture, Dtype::Float32, Backend::CPU);
        assert_eight(&model, &step(&model));
    }
}

/// The graph as it would be built on a Mac, recorded without running it.
#[test]
fn eight_a_layer_on_metal() {
    for (fixture, dtype) in [("a_base", Dtype::Float16), ("m_mlx_4bit", Dtype::Bfloat16)] {
        let model = model(fixture, dtype, Backend::METAL);
        assert_eight(&model, &while_exporting(|| step(&model)));
    }
}
