//! The choice of CUDA kernels: pure functions of shapes, so they are tested without a GPU.
//! `scripts/cuda-compile` compiles the kernels, `scripts/gpu-check` runs them.

#![allow(clippy::unwrap_used)]

use mlx_llamba_kernels::cuda::{mixer_launch, shared_bytes};
use mlx_llamba_kernels::gpu::{Argument, Language, MixerCall};
use mlx_llamba_kernels::{Activation, Dims};
use mlx_rs::Dtype;

fn call(p: usize, b: usize, l: usize, dtype: Dtype) -> MixerCall {
    MixerCall {
        dims: Dims { h: 32, g: 32, p, n: 64, k: 4 },
        b,
        l,
        dtype,
        split_A_log: false,
        ragged: false,
        conv_bias: true,
        z_bias: true,
        activation: Activation::Identity,
    }
}

fn hopper() -> usize {
    shared_bytes((9, 0))
}

#[test]
fn published_models_take_the_kernels_in_cuda() {
    for p in [64, 96, 128] {
        for (b, l) in [(1, 1), (64, 1), (4096, 1), (1, 17), (16, 2048)] {
            let launch = mixer_launch(&call(p, b, l, Dtype::Bfloat16), hopper()).unwrap();
            assert_eq!(launch.source.language, Language::Cuda, "p = {p}, b = {b}, l = {l}");
            assert_eq!((launch.grid.1, launch.grid.2), (1, 1), "rows belong in x");
            assert!(launch.dynamic_bytes <= hopper());
            let tile = launch.template.iter().find_map(|&(name, argument)| match argument {
                Argument::Int(tile) if name == "tile" => Some(tile as usize),
                _ => None,
            });
            let blocks = b * 32 * p / tile.unwrap();
            assert_eq!(launch.grid.0, blocks as i32 * launch.threadgroup.0);
        }
    }
}

#[test]
fn a_step_for_few_sequences_has_smaller_tiles() {
    let blocks = |b| {
        let launch = mixer_launch(&call(128, b, 1, Dtype::Bfloat16), hopper()).unwrap();
        launch.grid.0 / launch.threadgroup.0
    };
    assert!(blocks(1) >= 256 && blocks(64) >= 1024, "{} and {}", blocks(1), blocks(64));
}

#[test]
fn other_cases_take_the_metal_kernels() {
    let bf16 = Dtype::Bfloat16;
    let metal = |call: MixerCall, shared| {
        mixer_launch(&call, shared).unwrap().source.language == Language::Metal
    };
    let dims = |dims| MixerCall { dims, ..call(64, 2, 1, bf16) };
    // Several tokens with the bits of single steps; chunks in float32; older GPUs.
    assert!(metal(call(64, 2, 16, bf16), hopper()));
    assert!(metal(call(64, 2, 100, Dtype::Float32), hopper()));
    assert!(metal(call(64, 2, 100, bf16), shared_bytes((7, 5))));
    assert!(metal(MixerCall { ragged: true, ..call(64, 2, 1, bf16) }, hopper()));
    // Sizes that do not fill a block or a copy.
    assert!(metal(dims(Dims { h: 6, g: 3, p: 5, n: 4, k: 4 }), hopper()));
    assert!(metal(dims(Dims { h: 4, g: 2, p: 64, n: 40, k: 4 }), hopper()));
    let odd = Dims { h: 3, g: 3, p: 64, n: 64, k: 4 };
    assert!(metal(MixerCall { dims: odd, l: 100, ..call(64, 2, 1, bf16) }, hopper()));
    assert!(!metal(call(64, 2, 100, bf16), shared_bytes((8, 6))));
}
