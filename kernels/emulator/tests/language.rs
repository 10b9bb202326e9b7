//! What kernels compute under the emulator is what Metal says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, Run, TemplateArg, run};

/// Runs a body with input `x` and output `y` (as many elements) on one threadgroup.
fn one_group(body: &str, x: &Buffer, out: Dtype, n: i32, threads: u32) -> Run {
    let kernel = Kernel {
        name: "language",
        inputs: &["x"],
        outputs: &["y"],
        source: body,
        header: "",
        path: None,
    };
    let launch = Launch {
        grid: [threads, 1, 1],
        threadgroup: [threads, 1, 1],
        outputs: vec![(vec![n], out)],
        ..Launch::default()
    };
    match run(&kernel, std::slice::from_ref(x), &launch) {
        Ok(run) => run,
        Err(e) => panic!("{e}"),
    }
}

fn iota(n: i32) -> Buffer {
    Buffer::new(Dtype::F32, &[n], (0..n).map(f64::from))
}

#[test]
fn simd_sum_and_barrier() {
    let body = "
        threadgroup float sums[4];
        float s = simd_sum(x[thread_position_in_grid.x]);
        if (thread_index_in_simdgroup == 0) sums[simdgroup_index_in_threadgroup] = s;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float t = 0;
        for (uint i = 0; i < simdgroups_per_threadgroup; i++) t += sums[i];
        y[thread_position_in_grid.x] = t;
    ";
    let run = one_group(body, &iota(128), Dtype::F32, 128, 128);
    assert_eq!(run.outputs[0].to_f32(), vec![8128.0; 128]);
    assert_eq!(run.report.barriers, 1);
    assert_eq!(run.report.simd_ops, 4);
    assert_eq!(run.report.threadgroup_bytes, 16);
    assert_eq!(run.report.bytes_read(), 512);
    assert_eq!(run.report.bytes_written(), 512);
}

fn run_clean(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Run {
    match run(kernel, inputs, launch) {
        Ok(run) => run,
        Err(e) => panic!("{e}"),
    }
}

/// Values with every lane different and no symmetry.
fn uneven(n: i32) -> Buffer {
    Buffer::new(Dtype::F32, &[n], (0..n).map(|i| f64::from((i * 37) % 53) - 20.0))
}

#[test]
fn simd_functions() {
    let x = uneven(32);
    let v = x.to_f32();
    let at = |i: i32| v[i as usize];
    let sum = |to: usize| v[..to].iter().sum::<f32>();
    // Of lane i.
    type Expected<'a> = Box<dyn Fn(i32) -> f32 + 'a>;
    let cases: Vec<(&str, Expected)> = vec![
        ("simd_sum(v)", Box::new(|_| sum(32))),
        ("simd_max(v)", Box::new(|_| 32.0)),
        ("simd_min(v)", Box::new(|_| -20.0)),
        ("simd_prefix_inclusive_sum(v)", Box::new(|i| sum(i as usize + 1))),
        ("simd_prefix_exclusive_sum(v)", Box::new(|i| sum(i as usize))),
        ("simd_shuffle(v, (lane + 5) % 32)", Box::new(|i| at((i + 5) % 32))),
        ("simd_broadcast(v, 11)", Box::new(|_| at(11))),
        ("simd_broadcast_first(v)", Box::new(|_| at(0))),
        ("simd_shuffle_xor(v, 9)", Box::new(|i| at(i ^ 9))),
        (
            "(lane < 3 ? -1.0f : 0.0f) + simd_shuffle_up(lane < 29 ? v : 0.0f, 3) * float(lane >= 3)",
            { Box::new(|i| if i < 3 { -1.0 } else { at(i - 3) }) },
        ),
        (
            "simd_shuffle_down(v, 4) * float(lane < 28)",
            Box::new(|i| if i < 28 { at(i + 4) } else { 0.0 }),
        ),
        ("simd_shuffle_rotate_up(v, 3)", Box::new(|i| at((i + 29) % 32))),
        ("simd_shuffle_rotate_down(v, 3)", Box::new(|i| at((i + 3) % 32))),
        ("simd_shuffle_and_fill_up(v, v + 100, 3)", {
            Box::new(|i| if i < 3 { at(29 + i) + 100.0 } else { at(i - 3) })
        }),
        ("simd_shuffle_and_fill_down(v, v + 100, 3)", {
            Box::new(|i| if i < 29 { at(i + 3) } else { at(i - 29) + 100.0 })
        }),
        ("simd_shuffle_and_fill_up(v, v + 100, 3, 8)", {
            Box::new(|i| if i % 8 < 3 { at(i + 5) + 100.0 } else { at(i - 3) })
        }),
        ("float(simd_any(lane == 7)) + 2 * float(simd_all(lane < 31))", Box::new(|_| 1.0)),
        (
            "float(simd_or(1u << (lane % 8)) + simd_and(lane | 64u) + simd_xor(lane == 4 ? 6u : 0u))",
            { Box::new(|_| 255.0 + 64.0 + 6.0) },
        ),
        ("simd_sum(float2(v, 1.0f)).y + float(simd_is_first())", {
            Box::new(|i| if i == 0 { 33.0 } else { 32.0 })
        }),
    ];
    for (expression, expected) in &cases {
        let body = format!(
            "uint lane = thread_index_in_simdgroup;
             float v = x[lane];
             y[lane] = {expression};"
        );
        let run = one_group(&body, &x, Dtype::F32, 32, 32);
        let expected: Vec<f32> = (0..32).map(expected).collect();
        assert_eq!(run.outputs[0].to_f32(), expected, "{expression}");
    }
}

#[test]
fn a_partial_simdgroup() {
    let body =
        "uint i = thread_position_in_grid.x; y[i] = simd_sum(x[i]) + float(threads_per_simdgroup);";
    let y = one_group(body, &iota(40), Dtype::F32, 40, 40).outputs[0].to_f32();
    assert_eq!(y[..32], [496.0 + 32.0; 32]);
    assert_eq!(y[32..], [284.0 + 32.0; 8]);
}

/// y = a b + c of 8 by 8 matrices.
fn product(a: &[f64], b: &[f64], c: &[f64]) -> Vec<f64> {
    let dot = |r: usize, col: usize| (0..8).map(|k| a[r * 8 + k] * b[k * 8 + col]).sum::<f64>();
    (0..64).map(|i| dot(i / 8, i % 8) + c[i]).collect()
}

#[test]
fn matrices_of_every_dtype() {
    // Small integers, exact in all three.
    let values = |step: i32| (0..64).map(move |i| f64::from((i * step) % 11 - 5));
    let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) =
        (values(7).collect(), values(5).collect(), values(3).collect());
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let kernel = Kernel {
            name: "matrix",
            inputs: &["a", "b", "c"],
            outputs: &["y"],
            source: "
        threadgroup float tile[8 * 10];
        simdgroup_matrix<T, 8, 8> ma, mb;
        simdgroup_float8x8 mc, md;
        simdgroup_load(ma, a);
        simdgroup_load(mb, b, 8, ulong2(0, 0), true);
        uint lane = thread_index_in_simdgroup;
        for (uint i = lane; i < 64; i += 32) tile[i / 8 * 10 + i % 8] = float(c[i]);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_load(mc, tile, 10);
        simdgroup_multiply_accumulate(md, ma, mb, mc);
        simdgroup_matrix<float, 8, 8> twice = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        simdgroup_multiply(twice, md, simdgroup_float8x8(2.0f));
        simdgroup_store(twice, y, 16, ulong2(8, 1));",
            header: "",
            path: None,
        };
        let inputs = [(&a, 0), (&b, 1), (&c, 2)].map(|(v, which)| {
            let v: Vec<f64> = match which {
                1 => (0..64).map(|i| v[i % 8 * 8 + i / 8]).collect(), // stored transposed
                _ => v.clone(),
            };
            Buffer::new(dtype, &[8, 8], v)
        });
        let launch = Launch {
            template: vec![("T", TemplateArg::Dtype(dtype))],
            grid: [32, 1, 1],
            threadgroup: [32, 1, 1],
            outputs: vec![(vec![9, 16], Dtype::F32)],
            init_value: Some(7.0),
        };
        let y = run_clean(&kernel, &inputs, &launch).outputs[0].to_f64();
        let expected = product(&a, &b, &c);
        for (i, &v) in y.iter().enumerate() {
            let (r, col) = (i / 16, i % 16);
            let written = r >= 1 && col >= 8;
            let want = if written { 2.0 * expected[(r - 1) * 8 + col - 8] } else { 7.0 };
            assert_eq!(v, want, "{dtype:?} row {r} column {col}");
        }
    }
}

#[test]
fn lanes_hold_matrix_elements_as_apple_lays_them_out() {
    let body = "
        simdgroup_float8x8 m;
        simdgroup_load(m, x);
        uint lane = thread_index_in_simdgroup;
        uint quad = lane / 4;
        uint row = (quad & 4) + (lane / 2) % 4, col = (quad & 2) * 2 + (lane % 2) * 2;
        m.thread_elements() *= 2.0f;
        y[row * 8 + col] = m.thread_elements()[0];
        y[row * 8 + col + 1] = m.thread_elements().y;";
    let y = one_group(body, &iota(64), Dtype::F32, 64, 32).outputs[0].to_f32();
    assert_eq!(y, (0..64).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
}

#[test]
fn narrow_types_round_to_nearest_even_after_every_operation() {
    use half::{bf16, f16};
    // Halfway cases of both types, carries, subnormals, overflow.
    let mut values =
        vec![0.0, -0.0, 1e-7, 6.1e-5, 65519.0, 65520.0, 1e30, f32::INFINITY, 3.3e38, -1.003_906_3];
    values.extend((0..200).map(|i| 1.0 + i as f32 / 1024.0 + (i % 3) as f32 / 4096.0));
    let n = values.len() as i32;
    let x = Buffer::f32(&[n], &values);
    let body = |t: &str| {
        format!(
            "uint i = thread_position_in_grid.x;
             {t} a = {t}(x[i]), b = {t}(1.2345f), c = {t}(-0.777f);
             y[i] = a * b + c;"
        )
    };
    let threads = n as u32;
    let y = one_group(&body("half"), &x, Dtype::F16, n, threads).outputs[0].to_f32();
    for (&v, y) in values.iter().zip(y) {
        let product = f16::from_f32(f16::from_f32(v).to_f32() * f16::from_f32(1.2345).to_f32());
        let want = f16::from_f32(product.to_f32() + f16::from_f32(-0.777).to_f32());
        assert_eq!(y.to_bits(), want.to_f32().to_bits(), "half {v}");
    }
    let y = one_group(&body("bfloat"), &x, Dtype::BF16, n, threads).outputs[0].to_f32();
    for (&v, y) in values.iter().zip(y) {
        let product = bf16::from_f32(bf16::from_f32(v).to_f32() * bf16::from_f32(1.2345).to_f32());
        let want = bf16::from_f32(product.to_f32() + bf16::from_f32(-0.777).to_f32());
        assert_eq!(y.to_bits(), want.to_f32().to_bits(), "bfloat {v}");
    }
}

#[test]
fn mixed_arithmetic_widens() {
    let body = "
        uint i = thread_position_in_grid.x;
        bfloat b = bfloat(1.00390625f);  // 1: halfway, to even
        half h = 0.1h;
        bfloat_sum += 0.0f;
        y[i] = b * x[i] + h;";
    let body = body.replace("bfloat_sum += 0.0f;", "b += 0.0f; b *= 2;");
    let y = one_group(&body, &iota(3), Dtype::F32, 3, 3).outputs[0].to_f32();
    let tenth = half::f16::from_f32(0.1).to_f32();
    assert_eq!(y, [0.0, 2.0, 4.0].map(|v| v + tenth));
}

#[test]
fn fast_functions_are_near_and_not_exact() {
    let x = Buffer::new(Dtype::F32, &[64], (1..65).map(|i| f64::from(i) / 16.0));
    for (name, exact) in
        [("exp", f64::exp as fn(f64) -> f64), ("log", f64::ln), ("rsqrt", |v| 1.0 / v.sqrt())]
    {
        for (space, ulps) in [("", 0.5001), ("precise::", 0.5001), ("fast::", 3.0)] {
            let body = format!("uint i = thread_position_in_grid.x; y[i] = {space}{name}(x[i]);");
            let y = one_group(&body, &x, Dtype::F32, 64, 64).outputs[0].to_f64();
            let mut most = 0.0f64;
            for (v, y) in x.to_f64().into_iter().zip(y) {
                let want = exact(v);
                let exponent = want.abs().max(1e-30).log2().floor();
                most = most.max((y - want).abs() / (exponent - 23.0).exp2());
            }
            assert!(most <= ulps, "{space}{name}: {most} ulp");
            assert_eq!(most > 1.0, space == "fast::", "{space}{name}: {most} ulp");
        }
    }
}

#[test]
fn functions_and_vectors() {
    let body = "
        uint i = thread_position_in_grid.x;
        float4 v = float4(x[i], 1, 2, 3);
        half4 h = half4(v);
        v.xy = v.xy + float2(h.zw);
        float4 w = fma(v, float4(2.0f), 1.0f - v * 0.5f);
        packed_float3 p = packed_float3(w.xyz);
        uint4 u = uint4(1, 2, 3, 4) << 2u;
        w += clamp(w, 0.0f, 2.0f) + select(float4(0), float4(100), v > 2.5f);
        bool b = any(v > 4.0f) && !all(v > 4.0f);
        y[i] = dot(w, float4(u)) + p[1] + float(b) + as_type<float>(as_type<uint>(0.5f)) +
               max(min(x[i], 0.5f), 0.25f) + sign(-x[i]) + rint(2.5f) + float(popcount(255u)) +
               float(metal::abs(-3)) + float(numeric_limits<half>::max()) + float(sizeof(float3));";
    let y = one_group(body, &iota(2), Dtype::F32, 2, 2).outputs[0].to_f32();
    let expected = |x: f32| {
        let v = [x + 2.0, 1.0 + 3.0, 2.0, 3.0];
        let w0 = v.map(|v: f32| v * 2.0 + (1.0 - v * 0.5));
        let mut w = w0;
        for i in 0..4 {
            w[i] += w0[i].clamp(0.0, 2.0) + if v[i] > 2.5 { 100.0 } else { 0.0 };
        }
        let dot: f32 = (0..4).map(|i| w[i] * (4 * (i + 1)) as f32).sum();
        let sign = if x > 0.0 { -1.0 } else { 0.0 };
        dot + w0[1] + 0.0 + 0.5 + x.clamp(0.25, 0.5) + sign + 2.0 + 8.0 + 3.0 + 65504.0 + 16.0
    };
    assert_eq!(y, [expected(0.0), expected(1.0)]);
}

#[test]
fn what_mlx_passes() {
    let kernel = Kernel {
        name: "signature",
        inputs: &["x", "few", "one"],
        outputs: &["y", "ids"],
        source: "
        uint3 at = thread_position_in_grid;
        uint i = at.x + threads_per_grid.x * at.y;
        y[i] = scaled<T>(x, i) + one + few[2] + N + (FLAG ? 1 : 0)
             + x_shape[0] * 1000 + x_shape[1] * 100 + int(x_strides[0]) * 10000 + x_ndim * 100000;
        ids[i] = threads_per_threadgroup.x * 100 + thread_position_in_threadgroup.x * 10
               + threadgroup_position_in_grid.x + thread_index_in_threadgroup * 1000
               + threadgroups_per_grid.y * 10000 + dispatch_threads_per_threadgroup.x * 100000;",
        header: "#include <metal_simdgroup_matrix>
        constant float factors[2] = {2.0f, 3.0f};
        // A threadgroup pointer and a device one.
        template <typename T> T scaled(const device T* p, uint i) { return p[i] * factors[i % 2]; }
        template <typename P> void unused(threadgroup float* q, P p) { q[0] = p[0]; }",
        path: None,
    };
    let inputs = [
        Buffer::new(Dtype::F32, &[2, 5], (0..10).map(f64::from)),
        Buffer::new(Dtype::I32, &[3], [0.0, 0.0, 40.0]),
        Buffer::new(Dtype::F32, &[], [0.5]),
    ];
    let launch = Launch {
        template: vec![
            ("T", TemplateArg::Dtype(Dtype::F32)),
            ("N", TemplateArg::Int(-6)),
            ("FLAG", TemplateArg::Bool(true)),
        ],
        // The second threadgroup along x has two threads.
        grid: [5, 2, 1],
        threadgroup: [3, 1, 7],
        outputs: vec![(vec![10], Dtype::F32), (vec![10], Dtype::U32)],
        ..Launch::default()
    };
    let run = run_clean(&kernel, &inputs, &launch);
    let shapes = 2.0 * 1000.0 + 5.0 * 100.0 + 5.0 * 10000.0 + 2.0 * 100000.0;
    let y: Vec<f32> =
        (0..10).map(|i| i as f32 * (2 + i % 2) as f32 + 0.5 + 40.0 - 6.0 + 1.0 + shapes).collect();
    assert_eq!(run.outputs[0].to_f32(), y);
    let ids: Vec<f64> = (0..10)
        .map(|i| f64::from(i % 5))
        .map(|x| {
            let (group, t) = ((x / 3.0).floor(), x % 3.0);
            (3.0 - group) * 100.0 + t * 10.0 + group + t * 1000.0 + 2.0 * 10000.0 + 300_000.0
        })
        .collect();
    assert_eq!(run.outputs[1].to_f64(), ids);
    assert_eq!(run.report.threadgroups, 4);
    // Shapes are no traffic; what each of four threadgroups reads again is.
    let few = run.report.buffer("few").unwrap();
    assert_eq!((few.read, few.read_once, few.raw_read), (4 * 4, 4, 10 * 4));
    assert_eq!(run.report.buffers.len(), 5);
}

#[test]
fn threadgroup_pointers_and_arrays() {
    let body = "
        constexpr int width = 8;
        threadgroup float tile[4 * width], sums[2];  // a comment; with threadgroup float* in it
        threadgroup vec<float, 2> pairs[16];
        uint i = thread_position_in_grid.x;
        threadgroup float* mine = tile + i;
        const threadgroup float& other = tile[i ^ 1];
        *mine = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (i < 2) sums[i] = tile[i] + tile[i + 2];
        if (i < 16) pairs[i] = *(threadgroup float2*)(tile + 2 * i);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = other + sums[i & 1] + pairs[i / 2].y;";
    let run = one_group(body, &iota(32), Dtype::F32, 32, 32);
    let y: Vec<f32> =
        (0..32).map(|i: i32| ((i ^ 1) + if i & 1 == 0 { 2 } else { 4 } + (i | 1)) as f32).collect();
    assert_eq!(run.outputs[0].to_f32(), y);
    assert_eq!(run.report.threadgroup_bytes, 4 * (32 + 2 + 32));
}

#[test]
fn atomics_do_not_race() {
    let body = "
        threadgroup atomic_uint count;
        uint i = thread_position_in_grid.x;
        if (i == 0) atomic_store_explicit(&count, 5, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        atomic_fetch_add_explicit(&count, i, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = x[i] + float(atomic_load_explicit(&count, memory_order_relaxed));";
    let y = one_group(body, &iota(64), Dtype::F32, 64, 64).outputs[0].to_f32();
    assert_eq!(y, (0..64).map(|i| i as f32 + 2021.0).collect::<Vec<_>>());
}

#[test]
fn traffic_of_a_threadgroup_counts_once() {
    let body = "
        uint i = thread_position_in_grid.x;
        float s = 0;
        for (uint j = 0; j < 16; j++) s += x[j] * x[16 + i % 8];
        y[i] = s;
        y[i] = y[i] + s;";
    let run = one_group(body, &iota(64), Dtype::F32, 32, 32);
    let x = run.report.buffer("x").unwrap();
    assert_eq!((x.read, x.read_once, x.written), (24 * 4, 24 * 4, 0));
    assert!(x.raw_read >= 32 * 17 * 4, "{x:?}");
    // What a thread reads back is no traffic.
    let y = run.report.buffer("y").unwrap();
    assert_eq!((y.read, y.written, y.written_once), (0, 32 * 4, 32 * 4));
}

#[test]
fn branches_that_a_template_argument_rules_out_cost_nothing() {
    let body = "
        uint i = thread_position_in_grid.x;
        if constexpr (WIDE) {
            threadgroup float tile[1024];
            tile[i] = T::this_is_not_there;
        } else {
            threadgroup T tile[64];
            tile[i] = x[i];
            y[i] = tile[i];
        }";
    let kernel = Kernel {
        name: "ruled_out",
        inputs: &["x"],
        outputs: &["y"],
        source: body,
        header: "",
        path: None,
    };
    let launch = Launch {
        template: vec![("T", TemplateArg::Dtype(Dtype::F32)), ("WIDE", TemplateArg::Bool(false))],
        grid: [64, 1, 1],
        threadgroup: [64, 1, 1],
        outputs: vec![(vec![64], Dtype::F32)],
        ..Launch::default()
    };
    assert_eq!(run_clean(&kernel, &[iota(64)], &launch).report.threadgroup_bytes, 256);
}
