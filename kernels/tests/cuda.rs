//! The choice of CUDA kernels: pure functions of shapes, so they are tested without a GPU.
//! `scripts/cuda-compile` compiles the kernels, `scripts/gpu-check` runs them.

#![allow(clippy::unwrap_used, clippy::panic)]

use mlx_llamba_kernels::cuda::{
    FEW_INPUTS, fused_matmul_launch, matmul_launch, mixer_launch, rows_launch, shared_bytes,
};
use mlx_llamba_kernels::gpu::{Argument, Fusion, Language, MatmulCall, MixerCall};
use mlx_llamba_kernels::{Activation, Dims, Mode, Scheme};
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

fn product(m: usize, [rows, columns]: [usize; 2], dtype: Dtype) -> MatmulCall {
    let scheme = Scheme::new(64, 4, Mode::Affine).unwrap();
    MatmulCall { m, rows, columns, dtype, scales: dtype, scheme }
}

/// The matrices of the published models, (out, in).
const MATRICES: [[usize; 2]; 12] = [
    [8224, 2048],
    [2048, 2048],
    [16384, 2048],
    [2048, 8192],
    [10272, 3072],
    [3072, 3072],
    [16384, 3072],
    [3072, 8192],
    [12320, 4096],
    [4096, 4096],
    [28672, 4096],
    [4096, 14336],
];

#[test]
fn products_of_1_to_64_rows_take_kernels_that_fit() {
    for matrix in MATRICES {
        for m in 1..=64 {
            for dtype in [Dtype::Float16, Dtype::Bfloat16] {
                let call = product(m, matrix, dtype);
                let (launch, sum) = matmul_launch(&call, hopper()).unwrap();
                assert_eq!((launch.grid.1, launch.grid.2), (1, 1), "rows belong in x");
                assert!(launch.dynamic_bytes <= hopper(), "{call:?}");
                let [out] = &launch.outputs[..] else { panic!("{call:?}: outputs") };
                let parts = if sum.is_some() { out.shape[0] as usize } else { 1 };
                let size: i32 = out.shape.iter().product();
                assert_eq!(size as usize, parts * m * matrix[0], "{call:?}");
                assert_eq!(out.dtype == dtype, sum.is_none(), "{call:?}");
                if let Some(sum) = sum {
                    assert_eq!(sum.outputs[0].shape, [m as i32, matrix[0] as i32]);
                    assert_eq!(sum.outputs[0].dtype, dtype);
                    let threads = sum.grid.0 as usize;
                    assert!((m * matrix[0]..m * matrix[0] + 128).contains(&threads));
                }
            }
        }
    }
}

/// Small matrices are cut into parts of their columns, or shared by more warps, so that every
/// multiprocessor has work.
#[test]
fn products_with_small_matrices_fill_a_gpu() {
    for matrix in MATRICES {
        let warps = |m| {
            let (launch, _) =
                matmul_launch(&product(m, matrix, Dtype::Bfloat16), hopper()).unwrap();
            launch.grid.0 / 32
        };
        assert!(warps(1) >= 1024, "{matrix:?}: {} warps for one row", warps(1));
        assert!(warps(64) >= 256, "{matrix:?}: {} warps for 64 rows", warps(64));
    }
}

/// The products of a step of decoding with the operations beside them.
#[test]
fn products_of_a_step_take_the_norms_and_sums_beside_them() {
    let epsilon = 1e-5;
    let norm = Fusion::Norm { epsilon };
    let gate = Fusion::NormSwiglu { epsilon };
    for matrix in MATRICES {
        for m in 1..=8 {
            let call = product(m, matrix, Dtype::Bfloat16);
            for fusion in [norm, gate, Fusion::Residual] {
                let launch = fused_matmul_launch(&call, fusion, hopper()).unwrap();
                assert_eq!(launch.source.inputs, FEW_INPUTS);
                let width = if fusion == gate { matrix[0] / 2 } else { matrix[0] };
                assert_eq!(launch.outputs[0].shape, [m as i32, 1, width as i32], "{call:?}");
                assert!(launch.dynamic_bytes <= hopper(), "{call:?}");
                let flag = |wanted| launch.template.contains(&(wanted, Argument::Bool(true)));
                assert_eq!(flag("norm"), fusion != Fusion::Residual);
                assert_eq!(flag("swiglu"), fusion == gate);
                assert_eq!(flag("residual"), fusion == Fusion::Residual);
            }
        }
    }
    let takes = |call: MatmulCall, fusion| fused_matmul_launch(&call, fusion, hopper()).is_ok();
    let call = product(1, [4096, 4096], Dtype::Bfloat16);
    assert!(takes(call, norm) && !takes(MatmulCall { m: 9, ..call }, norm));
    for dtype in [Dtype::Float32, Dtype::Float16] {
        assert!(!takes(product(1, [4096, 4096], dtype), norm));
    }
    assert!(takes(MatmulCall { rows: 40, ..call }, norm));
    assert!(!takes(MatmulCall { rows: 40, ..call }, gate), "20 rows do not fill blocks of 8");
    assert!(!takes(MatmulCall { columns: 4096 + 64, ..call }, norm));
    assert!(fused_matmul_launch(&call, norm, shared_bytes((7, 5))).is_err());
}

#[test]
fn rows_of_an_embedding_are_one_launch() {
    for m in [1, 64, 300] {
        let launch = rows_launch(&product(m, [128_256, 2048], Dtype::Bfloat16)).unwrap();
        assert_eq!(launch.outputs[0].shape, [m as i32, 1, 2048]);
        assert_eq!(launch.grid.0 as usize, m * 2048 / 8, "a thread for each word");
    }
    let scheme = Scheme::new(64, 8, Mode::Affine).unwrap();
    let call = product(1, [4096, 4096], Dtype::Bfloat16);
    assert!(rows_launch(&MatmulCall { scheme, ..call }).is_err());
}

#[test]
fn other_products_are_left_to_mlx() {
    let takes = |call: MatmulCall| matmul_launch(&call, hopper()).is_ok();
    let call = product(1, [4096, 4096], Dtype::Bfloat16);
    assert!(takes(call));
    assert!(!takes(MatmulCall { m: 65, ..call }));
    assert!(!takes(MatmulCall { m: 0, ..call }));
    assert!(!takes(MatmulCall { columns: 4096 + 64, ..call }));
    for (bits, mode) in [(8, Mode::Affine), (4, Mode::Nvfp4)] {
        let group_size = if mode == Mode::Affine { 64 } else { 16 };
        let scheme = Scheme::new(group_size, bits, mode).unwrap();
        assert!(!takes(MatmulCall { scheme, ..call }), "{scheme:?}");
    }
    assert!(matmul_launch(&call, shared_bytes((7, 5))).is_err());
    assert!(matmul_launch(&call, shared_bytes((8, 6))).is_ok());
    // Float32 is three rows of tensor cores; for more rows scales are of the activations' type.
    let float = |m| MatmulCall { dtype: Dtype::Float32, scales: Dtype::Float32, m, ..call };
    assert!(takes(float(5)) && !takes(float(6)));
    assert!(takes(MatmulCall { scales: Dtype::Float32, ..call }));
    assert!(!takes(MatmulCall { scales: Dtype::Float32, m: 17, ..call }));
}
