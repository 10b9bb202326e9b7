//! What kernels compute under the emulator is what Metal says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, Run, run};

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
