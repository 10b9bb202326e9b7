//! The number of operations that a decoded token takes, counted in MLX's graph.

#![allow(clippy::unwrap_used)]

use mlx_llamba::kernels::{Activations, Backend, Kernel};
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

/// The CPU kernels one by one: the single operation for all blocks needs all of them.
fn one_by_one() -> Backend {
    Backend::CPU.without([Kernel::Draw].into_iter().collect())
}

#[test]
fn eight_a_layer_on_a_cpu() {
    for fixture in ["a_base", "b_grouped"] {
        let model = model(fixture, Dtype::Float32, one_by_one());
        assert_eight(&model, &step(&model));
    }
}

/// All blocks are one operation, which gives the bits of the single ones.
#[test]
fn one_for_all_blocks_on_a_cpu() {
    let bits = |array: &Array| -> Vec<u32> {
        array.eval().unwrap();
        array.as_slice::<f32>().iter().map(|value| value.to_bits()).collect()
    };
    for (fixture, activations) in [
        ("a_base", Activations::Float32),
        ("b_grouped", Activations::Float32),
        ("m_mlx_4bit", Activations::Float32),
        ("m_mlx_4bit", Activations::Int8),
    ] {
        let one = match activations {
            Activations::Float32 => (Backend::CPU, one_by_one()),
            Activations::Int8 => {
                (Backend::CPU_INT8, Backend::CPU_INT8.without([Kernel::Draw].into_iter().collect()))
            }
        };
        let (whole, single) =
            (model(fixture, Dtype::Float32, one.0), model(fixture, Dtype::Float32, one.1));
        let names = step(&whole);
        assert!(names.is_empty(), "{fixture}: {names:?}");
        for rows in [&[&[1u32, 5, 3][..], &[2]][..], &[&[4], &[7]], &[&[6, 1, 0, 9]]] {
            let run = |model: &Model| {
                let (tokens, lengths) = model.tokens(rows).unwrap();
                let state = model.state(rows.len()).unwrap();
                let (_, state) = model.hidden(&tokens, lengths.as_ref(), &state).unwrap();
                let next = Array::from_slice(&vec![2u32; rows.len()], &[rows.len() as i32, 1]);
                let (hidden, state) = model.hidden(&next, None, &state).unwrap();
                let names = cpu::primitives(&[&hidden]).unwrap();
                let arrays = state.layers().iter().flat_map(|layer| [&layer.conv, &layer.ssm]);
                (names, arrays.chain([&hidden]).map(bits).collect::<Vec<_>>())
            };
            let ((names, found), (_, expected)) = (run(&whole), run(&single));
            assert_eq!(names.iter().filter(|name| *name == "LlambaBlocks").count(), 2, "{names:?}");
            assert!(found == expected, "{fixture}, {activations:?}, {rows:?}");
        }
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
