//! Kernels that no device accepts.

use mlx_llamba_emulator::{
    Buffer, Dtype, Error, FaultKind, Kernel, Launch, TemplateArg, check_types,
};

use super::Case;

#[test]
fn too_much_threadgroup_memory() {
    let body = "
        threadgroup float tile[8193];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        y[i] = tile[i];";
    Case::new(&body.replace("8193", "8192")).passes();
    let faults = Case::new(body).faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].kind, FaultKind::ThreadgroupMemory);
}

#[test]
fn too_many_threads() {
    let body = "if (thread_position_in_grid.x < 64) y[thread_position_in_grid.x] = x[0];";
    Case { grid: 1025, threadgroup: 1024, ..Case::new(body) }.passes();
    let error = Case { grid: 1025, threadgroup: 1025, ..Case::new(body) }.run();
    assert!(matches!(error, Err(Error::TooManyThreads { threads: 1025, .. })));
}

#[test]
fn what_does_not_compile() {
    let error = Case::new("\n y[0] = nothing;").run();
    let Err(Error::Compile { message }) = error else { panic!("compiled") };
    assert!(message.contains("seeded.metal:2"), "{message}");
}

/// Faults that only the type check finds.
#[test]
fn address_spaces_are_types() {
    let check = |to: &str| {
        let kernel = Kernel {
            name: "spaces",
            inputs: &["x"],
            outputs: &["y"],
            source: &"
        threadgroup T tile[64];
        uint i = thread_position_in_grid.x;
        threadgroup T* mine = tile + i;
        *mine = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        WHAT
        simdgroup_matrix<T, 8, 8> m;
        simdgroup_load(m, tile);
        simdgroup_store(m, y);
        y[i] = T(simd_sum(float(mine[0])) + first(tile) + first(x) + of_device(x));"
                .replace("WHAT", to),
            header: "
        template <typename P> inline float first(P p) { return float(p[0]); }
        template <typename T> inline float of_device(const device T* p) { return float(p[0]); }",
            path: None,
        };
        let launch = Launch {
            template: vec![("T", TemplateArg::Dtype(Dtype::BF16))],
            grid: [64, 1, 1],
            threadgroup: [64, 1, 1],
            outputs: vec![(vec![64], Dtype::BF16)],
            ..Launch::default()
        };
        let x = Buffer::zeros(Dtype::BF16, &[64]);
        match check_types(&kernel, &[x], &launch) {
            Ok(()) => None,
            Err(Error::Compile { message }) => Some(message),
            Err(e) => panic!("{e}"),
        }
    };
    for right in [
        "",
        "auto p = tile + i;",
        "const device T* p = x;",
        "thread float v = 0; thread float* p = &v;",
    ] {
        assert_eq!(check(right), None, "{right}");
    }
    for wrong in
        ["T* p = tile + i;", "device T* p = tile;", "threadgroup T* p = y;", "of_device(tile);"]
    {
        let message = check(wrong).unwrap_or_else(|| panic!("{wrong} passes"));
        assert!(message.contains("spaces.metal:7"), "{message}");
    }
}
