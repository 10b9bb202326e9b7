//! Arguments of kernels, and counts.

use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, TemplateArg};

use super::{iota, one_group, run_clean};

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
        // A threadgroup pointer and a device pointer.
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
    // Shapes are not traffic; data that each of four threadgroups reads again is.
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
    // Reading back is not traffic.
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
    let kernel = Kernel::new("ruled_out", &["x"], &["y"], body);
    let launch = Launch {
        template: vec![("T", TemplateArg::Dtype(Dtype::F32)), ("WIDE", TemplateArg::Bool(false))],
        grid: [64, 1, 1],
        threadgroup: [64, 1, 1],
        outputs: vec![(vec![64], Dtype::F32)],
        ..Launch::default()
    };
    assert_eq!(run_clean(&kernel, &[iota(64)], &launch).report.threadgroup_bytes, 256);
}

#[test]
fn neighboring_lanes_share_lines() {
    // 128 bytes hold 32 floats; some lanes execute the second load twice.
    let body = "
        uint i = thread_position_in_grid.x;
        float s = x[i * STEP % 1024];
        for (uint j = 0; j <= i % 2; j++) s += x[j * 512 + i % 32];
        y[i] = s;";
    let of = |step: &str, lines: u64| {
        let run = one_group(&body.replace("STEP", step), &iota(1024), Dtype::F32, 64, 64);
        let (x, y) = (run.report.buffer("x").unwrap(), run.report.buffer("y").unwrap());
        assert_eq!((x.lines_read, x.lines_written), (2 * (lines + 2), 0), "step {step}");
        assert_eq!((y.lines_read, y.lines_written), (0, 2), "step {step}");
    };
    of("1", 1);
    of("2", 2);
    of("32", 32);
    of("0", 1);
}
