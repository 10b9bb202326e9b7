//! Writes the CUDA source of every kernel variant that the published models and the tests' cases take,
//! as MLX puts them together, one file each into the folder that is given: `scripts/cuda-compile`
//! compiles them without a GPU.

#![allow(non_snake_case, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use mlx_llamba_kernels::gpu::{
    Argument, Fusion, Language, Launch, MatmulCall, MixerCall, NormCall, RecurrenceCall,
    TrainingCall, TrainingLaunches, adamw_launch, add_rms_norm_launch, cross_entropy_launch,
    distance_launches, draw_launch, masked_softmax_launch, norm_gradient_launch, norm_launch,
    ring_attention_launch, rope_launch, squares_launch, swiglu_gradient_launch, swiglu_launch,
};
use mlx_llamba_kernels::{Activation, Dims, Mode, Scheme, cuda, gpu};
use mlx_rs::Dtype;
use support::{Case, published, steps, tokens};

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    let hopper = cuda::shared_bytes((9, 0));
    let [f32, f16, bf16] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
    let mut sources = BTreeMap::new();
    let mut add = |name: String, launch: &Launch, inputs: &[(&str, Dtype)]| {
        sources.insert(name, source(launch, inputs));
    };
    for (model, p, d) in [("1B", 64, 2048), ("3B", 96, 3072), ("8B", 128, 4096)] {
        let dims = Dims { h: 32, g: 32, p, n: 64, k: 4 };
        for (b, l) in [(1, 1), (64, 1), (1, 12), (1, 2048)] {
            let call = call(&Case::new([32, 32, p, 64, 4], b, l), Dtype::Bfloat16);
            let launch = cuda::mixer_launch(&MixerCall { dims, ..call }, hopper).expect("a mixer");
            add(format!("{model} mixer b={b} l={l}"), &launch, &mixer_inputs(Dtype::Bfloat16));
        }
        let of = Dtype::Bfloat16;
        let launch = swiglu_launch(&[1, 1, 4 * d], of).expect("a launch");
        add(format!("{model} swiglu"), &launch, &[("gate_up", of)]);
        let launch = add_rms_norm_launch(&[1, 1, d], of, 1e-5).expect("a launch");
        add(format!("{model} residual norm"), &launch, &[("x", of), ("y", of), ("weight", of)]);
    }
    for (i, [h, g, k]) in [[9, 3, 64], [32, 8, 64], [32, 8, 128], [24, 3, 128]].iter().enumerate() {
        let of = if i % 2 == 0 { Dtype::Bfloat16 } else { Dtype::Float32 };
        let launch = ring_attention_launch([64, *h, *k], *g, 512, of, 0.1).expect("a launch");
        let inputs = [("queries", of), ("keys", of), ("values", of)];
        let inputs = [&inputs[..], &[("positions", Dtype::Int32), ("read", Dtype::Int32)]].concat();
        add(format!("ring attention h={h} g={g} k={k}"), &launch, &inputs);
    }
    for (i, [h, g, p, n]) in
        [[9, 9, 64, 64], [32, 8, 128, 64], [6, 3, 5, 7]].into_iter().enumerate()
    {
        let of = [Dtype::Bfloat16, Dtype::Float32, Dtype::Float16][i];
        let odd = i % 2 == 1;
        let training = TrainingCall {
            dims: Dims { h, g, p, n, k: 4 },
            b: 2,
            l: 100,
            dtype: of,
            width: (2 * h * p + 2 * g * n + if odd { 0 } else { h }).next_multiple_of(8),
            split_A_log: odd,
            starts: !odd,
            conv_bias: !odd,
            z_bias: i < 2,
            activation: if odd { Activation::Silu } else { Activation::Identity },
        };
        let recurrence = |call: &RecurrenceCall| {
            let hopper = cuda::shared_bytes((9, 0));
            cuda::rounded_recurrence(call, hopper).or_else(|_| gpu::recurrence_launch(call))
        };
        let launches = TrainingLaunches::new(&training, recurrence).expect("launches");
        // As in training: the sums inside are float32, and with products in 16 bits the weights too.
        let mut float = vec!["a", "start", "D", "y", "dx", "dB", "dC", "at_end", "by_decays"];
        if i == 0 {
            float.extend(["conv_weight", "conv_bias", "z_bias"]);
        }
        for (j, launch) in launches.all().into_iter().enumerate() {
            let typed = |name| match name {
                "starts" => (name, Dtype::Bool),
                _ if float.contains(&name) => (name, Dtype::Float32),
                _ => (name, of),
            };
            let inputs: Vec<_> = launch.source.inputs.iter().map(|&name| typed(name)).collect();
            add(format!("mixer with gradients {j} h={h} p={p} n={n}"), launch, &inputs);
        }
        let launch = swiglu_gradient_launch(&[2, 100, 16 * h as i32], of).expect("a launch");
        add(format!("swiglu gradient h={h}"), &launch, &[("gate_up", of), ("d_out", of)]);
    }
    for (i, (dtype, narrow)) in [(f32, f32), (f32, bf16), (bf16, bf16)].into_iter().enumerate() {
        for residual in [false, true] {
            let call = NormCall { dtype, narrow, residual, epsilon: 1e-5 };
            let shape = [200, [576, 2048, 7][i]];
            let launch = norm_launch(&shape, call).expect("a launch");
            // Without a residual connection x has the place of what is missing.
            let y = if residual { narrow } else { dtype };
            let inputs = [("x", dtype), ("y", y), ("weight", f32)];
            add(format!("norm {i} {residual}"), &launch, &inputs);
            let launch = norm_gradient_launch(&shape, call).expect("a launch");
            let inputs = [("x", dtype), ("weight", f32), ("d_out", narrow), ("d_sum", dtype)];
            add(format!("norm gradient {i} {residual}"), &launch, &inputs);
        }
    }
    for dtypes in [[f32; 3], [f32, bf16, bf16], [f32, f32, bf16]] {
        let names = ["x", "y", "target"].into_iter().zip(dtypes);
        let inputs: Vec<_> = names.chain([("norms", f32), ("d_norms", f32)]).collect();
        let [norms, gradients] = distance_launches([200, 576], dtypes).expect("launches");
        add(format!("distance {dtypes:?}"), &norms, &inputs[..3]);
        add(format!("distance gradient {dtypes:?}"), &gradients, &inputs);
    }
    for (of, turned) in [(bf16, 64), (f32, 32)] {
        let launch = rope_launch(&[2, 100, 9, 64], of, turned).expect("a launch");
        add(format!("rope {turned}"), &launch, &[("x", of), ("wavelengths", f32)]);
    }
    for ahead in [false, true] {
        let mask = (&[2, 1, 100, 100][..], Dtype::Bool);
        for of in [Dtype::Float32, Dtype::Bfloat16] {
            let launch = masked_softmax_launch(&[2, 9, 100, 100], of, mask).expect("a launch");
            add(format!("masked softmax {of:?}"), &launch, &[("x", of), ("mask", Dtype::Bool)]);
        }
        let step = adamw_launch(1000, ahead).expect("a launch");
        let inputs = ["parameter", "gradient", "m", "v", "scale", "how"];
        add(format!("adamw {ahead}"), &step, &inputs.map(|name| (name, Dtype::Float32)));
    }
    let squares = squares_launch(&[1 << 20, 7]).expect("a launch");
    let mut inputs: Vec<_> = squares.source.inputs.iter().map(|&i| (i, Dtype::Float32)).collect();
    inputs[16].1 = Dtype::Int32;
    add("squares".to_owned(), &squares, &inputs);
    for (i, vocab) in [4096, 49_152, 128_256].into_iter().enumerate() {
        let of = if i % 2 == 0 { Dtype::Bfloat16 } else { Dtype::Float32 };
        let launch = draw_launch([64, vocab], of, vocab).expect("a launch");
        add(
            format!("draw {vocab}"),
            &launch,
            &[("logits", of), ("keys", Dtype::Uint32), ("limits", Dtype::Float32)],
        );
    }
    for (of, teacher, v, tempered) in [
        (f32, Some(f32), 49_152, false),
        (bf16, Some(f32), 49_152, true),
        (bf16, Some(bf16), 49_152, false),
        (f16, Some(f16), 701, false),
        (f32, None, 4096, false),
    ] {
        let launch = cross_entropy_launch([64, v], of, teacher, tempered).expect("a launch");
        let inputs = [("logits", of), ("teacher", teacher.unwrap_or(of)), ("how", f32)];
        add(format!("cross entropy {of:?} {teacher:?} {v}"), &launch, &inputs);
    }
    for (i, case) in published().iter().enumerate() {
        let of = if i % 2 == 0 { Dtype::Float32 } else { Dtype::Float16 };
        let launch = cuda::mixer_launch(&call(case, of), hopper).expect("a mixer");
        add(format!("case {i} {of:?}"), &launch, &mixer_inputs(of));
    }
    for (i, case) in [steps(), tokens()].concat().iter().enumerate().step_by(6) {
        let launch = gpu::mixer_launch(&call(case, Dtype::Float32)).expect("a launch");
        add(format!("dialect {i}"), &launch, &mixer_inputs(Dtype::Float32));
    }
    let mut products = Vec::new();
    for group in [32, 64, 128] {
        products.extend([1, 16, 17, 64].map(|m| (bf16, bf16, group, m, 4096)));
        products.extend([(bf16, f32, group, 1, 4096), (f32, f32, group, 2, 4096)]);
    }
    products.extend([1, 16, 17, 64].map(|m| (f16, f16, 64, m, 4096)));
    products.extend([512, 28672].map(|rows| (bf16, bf16, 64, 1, rows)));
    products.push((f32, bf16, 64, 5, 4096));
    for (dtype, scales, group_size, m, rows) in products {
        let scheme = Scheme { group_size, bits: 4, mode: Mode::Affine };
        let call = MatmulCall { m, rows, columns: 4096, dtype, scales, scheme };
        let Ok((product, sum)) = cuda::matmul_launch(&call, hopper) else { continue };
        let of = [dtype, Dtype::Uint32, scales, scales, dtype];
        let inputs: Vec<_> = product.source.inputs.iter().copied().zip(of).collect();
        let name = format!("matmul {dtype:?} {scales:?} {group_size} {m} {rows}");
        add(name, &product, &inputs);
        if let Some(sum) = sum {
            add(format!("matmul {dtype:?} sum"), &sum, &[("sums", f32)]);
        }
    }
    for (of, group_size) in [(bf16, 32), (bf16, 64), (f32, 128)] {
        let scheme = Scheme { group_size, bits: 4, mode: Mode::Affine };
        let (rows, columns) = (128_256, 2048);
        let call = MatmulCall { m: 1, rows, columns, dtype: of, scales: of, scheme };
        let launch = cuda::rows_launch(&call).expect("a launch");
        let of = [Dtype::Uint32, Dtype::Uint32, of, of];
        let inputs: Vec<_> = cuda::ROWS_INPUTS.iter().copied().zip(of).collect();
        add(format!("rows {group_size}"), &launch, &inputs);
    }
    let epsilon = 1e-5;
    let matrices = [
        (Fusion::Norm { epsilon }, [[8224, 2048], [12320, 4096]]),
        (Fusion::Residual, [[2048, 8192], [4096, 14336]]),
        (Fusion::NormSwiglu { epsilon }, [[16384, 2048], [28672, 4096]]),
    ];
    for (fusion, sizes) in matrices {
        for ([rows, columns], group_size) in
            sizes.into_iter().zip([32, 64]).chain([(sizes[1], 128)])
        {
            for m in [1, 8] {
                let scheme = Scheme { group_size, bits: 4, mode: Mode::Affine };
                let call = MatmulCall { m, rows, columns, dtype: bf16, scales: bf16, scheme };
                let launch = cuda::fused_matmul_launch(&call, fusion, hopper).expect("a launch");
                let of = [bf16, Dtype::Uint32, bf16, bf16, bf16];
                let inputs: Vec<_> = cuda::FEW_INPUTS.iter().copied().zip(of).collect();
                let name = format!("{fusion:?} {group_size} {m} {rows}");
                add(name.replace(|c: char| !c.is_alphanumeric(), " "), &launch, &inputs);
            }
        }
    }
    std::fs::create_dir_all(&folder).expect("the folder");
    for (name, source) in sources {
        std::fs::write(folder.join(name + ".cu"), source).expect("a file");
    }
}

fn call(case: &Case, dtype: Dtype) -> MixerCall {
    MixerCall {
        dims: case.dims,
        b: case.lengths.len(),
        l: case.l,
        dtype,
        split_A_log: case.split_A_log,
        ragged: case.ragged,
        conv_bias: case.conv_bias,
        z_bias: case.z_bias,
        activation: case.activation,
    }
}

fn mixer_inputs(of: Dtype) -> [(&'static str, Dtype); 9] {
    let dtypes = [of, of, Dtype::Int32, of, Dtype::Float32, of, of, of, Dtype::Float32];
    std::array::from_fn(|i| (gpu::MIXER_INPUTS[i], dtypes[i]))
}

/// The whole source, as MLX's `build_kernel` makes it, with stand-ins for its headers.
fn source(launch: &Launch, inputs: &[(&str, Dtype)]) -> String {
    let (header, body) = (launch.source.header(), launch.source.body());
    let dialect = if launch.source.language == Language::Metal { cuda::DIALECT } else { "" };
    let mut text = "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n#include <cuda/std/array>\n\
                    using Shape = cuda::std::array<int, 10>;\n"
        .to_owned();
    text += &format!("{dialect}\n{header}namespace mlx::core::cu {{\n__global__ void kernel(\n");
    for (name, of) in inputs {
        text += &format!("const {}* {name},\n", type_of(*of));
        if body.contains(&format!("{name}_shape")) {
            text += &format!("const __grid_constant__ Shape {name}_shape,\n");
        }
    }
    let outputs = launch.source.outputs.iter().zip(&launch.outputs);
    let outputs: Vec<_> =
        outputs.map(|(name, output)| format!("{}* {name}", type_of(output.dtype))).collect();
    text += &format!("{}) {{\n", outputs.join(",\n"));
    for (name, argument) in &launch.template {
        text += &match argument {
            Argument::Dtype(of) => format!("using {name} = {};\n", type_of(*of)),
            Argument::Int(value) => format!("constexpr int {name} = {value};\n"),
            Argument::Bool(value) => format!("constexpr bool {name} = {value};\n"),
        };
    }
    let (threads, shared) = (launch.threadgroup.0, launch.dynamic_bytes);
    format!("// threads {threads} dynamic {shared}\n{text}{body}\n}}\n}}\n")
}

fn type_of(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float32 => "float",
        Dtype::Float16 => "__half",
        Dtype::Bfloat16 => "__nv_bfloat16",
        Dtype::Int32 => "int32_t",
        Dtype::Bool => "bool",
        Dtype::Uint32 => "uint32_t",
        other => panic!("no kernel takes {other:?}"),
    }
}
