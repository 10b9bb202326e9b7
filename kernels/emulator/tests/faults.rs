//! A seeded mistake of each kind, and beside it the same kernel without the mistake.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mlx_llamba_emulator::{
    Buffer, Dtype, Error, Fault, FaultKind, Kernel, Launch, Run, TemplateArg, check_types, run,
    run_offset,
};

/// One dispatch with input `x` (64 floats) and output `y`, of 64 floats unless said.
struct Case<'a> {
    body: &'a str,
    grid: u32,
    threadgroup: u32,
    outputs: i32,
}

impl<'a> Case<'a> {
    /// 64 threads in one threadgroup.
    fn new(body: &'a str) -> Self {
        Case { body, grid: 64, threadgroup: 64, outputs: 64 }
    }

    fn run(&self) -> Result<Run, Error> {
        let kernel = Kernel {
            name: "seeded",
            inputs: &["x"],
            outputs: &["y"],
            source: self.body,
            header: "",
            path: None,
        };
        let x = Buffer::new(Dtype::F32, &[64], (0..64).map(f64::from));
        let launch = Launch {
            grid: [self.grid, 1, 1],
            threadgroup: [self.threadgroup, 1, 1],
            outputs: vec![(vec![self.outputs], Dtype::F32)],
            ..Launch::default()
        };
        run(&kernel, &[x], &launch)
    }

    /// The faults; a run without any, or an error of another sort, fails the test.
    fn faults(&self) -> Vec<Fault> {
        match self.run() {
            Err(Error::Faults(run)) => run.report.faults,
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("no fault found in\n{}", self.body),
        }
    }

    fn passes(&self) {
        if let Err(e) = self.run() {
            panic!("{e}\nin\n{}", self.body);
        }
    }
}

/// `bad` has only faults of `kind`, one of them at `line` of the body (its first line is empty and
/// counts); with `from` replaced by `to` it has none.
fn seeded(kind: FaultKind, line: u32, bad: &str, from: &str, to: &str) -> Vec<Fault> {
    assert!(bad.contains(from), "{from}");
    Case::new(&bad.replace(from, to)).passes();
    let faults = Case::new(bad).faults();
    expect(&faults, kind, line);
    faults
}

fn expect(faults: &[Fault], kind: FaultKind, line: u32) {
    assert!(faults.iter().all(|f| f.kind == kind), "{faults:#?}");
    let place = format!("seeded.metal:{line}");
    assert!(faults.iter().any(|f| f.place == place), "{place} expected: {faults:#?}");
}

#[test]
fn read_beyond_an_input() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i + 1];";
    let faults = seeded(FaultKind::DeviceBounds, 3, body, "i + 1", "i");
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].object.as_deref(), Some("x"));
    assert_eq!(faults[0].thread, [63, 0, 0]);
    assert_eq!(faults[0].detail, "read of 4 bytes at byte 256 of 256 bytes");
}

#[test]
fn write_before_an_output() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = 1.0f;
        y[int(i) - 1] = x[i];";
    let bad = Case::new(body).faults();
    // Every other store goes to the neighbour's element.
    assert!(bad.iter().any(|f| f.kind == FaultKind::DeviceBounds && f.place == "seeded.metal:4"));
    assert!(bad.iter().any(|f| f.kind == FaultKind::DeviceRace));
    Case::new(&body.replace("int(i) - 1", "i")).passes();
}

#[test]
fn far_address() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i + (1ul << 32)];";
    seeded(FaultKind::WildAddress, 3, body, "i + (1ul << 32)", "i");
}

#[test]
fn beyond_a_threadgroup_array() {
    // Of two arrays, the end of either is met by no element of the other.
    for pointer in ["first", "second"] {
        let body = format!(
            "
        threadgroup float first[64];
        threadgroup float second[64];
        uint i = thread_position_in_grid.x;
        first[i] = x[i]; second[i] = x[i];
        auto p = {pointer} + i;
        p[OFF] = x[i];
        y[i] = x[i];"
        );
        Case::new(&body.replace("OFF", "0")).passes();
        let faults = Case::new(&body.replace("OFF", "64")).faults();
        expect(&faults, FaultKind::ThreadgroupBounds, 7);
        assert_eq!(faults[0].object.as_deref(), Some(pointer));
        let faults = Case::new(&body.replace("OFF", "-64")).faults();
        assert!(
            faults
                .iter()
                .any(|f| matches!(f.kind, FaultKind::ThreadgroupBounds | FaultKind::WildAddress))
        );
    }
}

#[test]
fn beyond_a_row_of_a_threadgroup_array() {
    let body = "
        threadgroup float tile[2][32];
        uint i = thread_position_in_grid.x;
        uint row = i / 33;
        tile[row][i % 33] = x[i];
        y[i] = x[i];";
    seeded(FaultKind::IndexBounds, 5, body, "33", "32");
}

#[test]
fn beyond_an_array_in_registers() {
    let body = "
        float window[4];
        uint i = thread_position_in_grid.x;
        for (uint j = 0; j <= 4; j++) window[(i + j) % 5] = x[i];
        y[i] = window[i % 4];";
    seeded(FaultKind::IndexBounds, 4, body, "% 5", "% 4");
}

#[test]
fn misaligned_vector() {
    let body = "
        uint i = thread_position_in_grid.x;
        auto p = x + min(i, 30u) * 2;
        y[i] = dot(*(const device float4*)p, float4(1.0f));";
    seeded(FaultKind::Misaligned, 4, body, "min(i, 30u) * 2", "min(i, 15u) * 4");
}

#[test]
fn vector_of_a_slice() {
    let kernel = Kernel {
        name: "slice",
        inputs: &["x"],
        outputs: &["y"],
        source: "uint i = thread_position_in_grid.x; y[i] = ((const device float2*)x)[i].y;",
        header: "",
        path: None,
    };
    let x = Buffer::new(Dtype::F32, &[16], (0..16).map(f64::from));
    let launch = Launch {
        grid: [8, 1, 1],
        threadgroup: [8, 1, 1],
        outputs: vec![(vec![8], Dtype::F32)],
        ..Launch::default()
    };
    let run = |offset| run_offset(&kernel, std::slice::from_ref(&x), &launch, offset);
    let y = run(2).unwrap().outputs[0].to_f32();
    assert_eq!(y, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]);
    let error = run(1).unwrap_err();
    assert!(
        error.faults().iter().all(|f| f.kind == FaultKind::Misaligned)
            && !error.faults().is_empty()
    );
}

#[test]
fn variable_that_is_never_set() {
    let error = Case::new("\n float v; y[thread_position_in_grid.x] = v;").run();
    assert!(matches!(error, Err(Error::Compile { .. })), "{error:?}");
}

#[test]
fn write_to_an_input() {
    let body = "
        uint i = thread_position_in_grid.x;
        ((device float*)x)[i] = 1.0f;
        y[i] = x[i];";
    seeded(FaultKind::InputWritten, 3, body, "((device float*)x)[i] = 1.0f;", "");
}

#[test]
fn uninitialised_threadgroup_memory() {
    let body = "
        threadgroup float tile[65];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = tile[i + 1];";
    let faults = seeded(FaultKind::ThreadgroupUninitialised, 6, body, "i + 1", "63 - i");
    assert_eq!(faults[0].detail, "read of 4 bytes at byte 256 of 260 bytes");
}

#[test]
fn threadgroup_memory_of_the_threadgroup_before() {
    let body = "
        threadgroup float tile[32];
        uint i = thread_position_in_threadgroup.x;
        if (threadgroup_position_in_grid.x == 0) tile[i] = x[i];
        y[thread_position_in_grid.x] = tile[i];";
    let case = Case { threadgroup: 32, ..Case::new(body) };
    expect(&case.faults(), FaultKind::ThreadgroupUninitialised, 5);
    let body = body.replace("if (threadgroup_position_in_grid.x == 0)", "");
    Case { threadgroup: 32, ..Case::new(&body) }.passes();
}

#[test]
fn output_read_before_written() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] += x[i];";
    seeded(FaultKind::OutputUninitialised, 3, body, "+=", "=");
}

/// Each thread stores an element and reads one of the other simdgroup's.
const EXCHANGE: &str = "
        threadgroup float tile[64];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        BARRIER
        y[i] = tile[63 - i];";
const BARRIER: &str = "threadgroup_barrier(mem_flags::mem_threadgroup);";

#[test]
fn race_without_a_barrier() {
    let body = "
        threadgroup float tile[64];
        uint i = thread_position_in_grid.x;
        tile[i] = 0.0f; threadgroup_barrier(mem_flags::mem_threadgroup); tile[i] = x[i];
        BARRIER
        y[i] = tile[63 - i];";
    Case::new(&body.replace("BARRIER", BARRIER)).passes();
    let faults = Case::new(&body.replace("BARRIER", "")).faults();
    // Whichever of the two comes second.
    assert!(faults.iter().all(|f| f.kind == FaultKind::ThreadgroupRace), "{faults:#?}");
    expect(&faults, FaultKind::ThreadgroupRace, 6);
    let read = faults.iter().find(|f| f.place == "seeded.metal:6").unwrap();
    assert_eq!(read.object.as_deref(), Some("tile"));
    assert_eq!(read.other_place.as_deref(), Some("seeded.metal:4"));
}

#[test]
fn race_past_the_wrong_barrier() {
    for wrong in [
        "threadgroup_barrier(mem_flags::mem_device);",
        "threadgroup_barrier(mem_flags::mem_none);",
        "simdgroup_barrier(mem_flags::mem_threadgroup);",
    ] {
        let faults = Case::new(&EXCHANGE.replace("BARRIER", wrong)).faults();
        assert!(faults.iter().any(|f| f.kind == FaultKind::ThreadgroupRace), "{wrong}: {faults:?}");
    }
    Case::new(&EXCHANGE.replace("BARRIER", BARRIER)).passes();
}

#[test]
fn race_inside_a_simdgroup() {
    let body = "
        threadgroup float tile[64];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        float s = simd_sum(x[i]);
        y[i] = tile[i ^ 1] + s;";
    let fixed = "float s = simd_sum(x[i]); simdgroup_barrier(mem_flags::mem_threadgroup);";
    seeded(FaultKind::ThreadgroupRace, 6, body, "float s = simd_sum(x[i]);", fixed);
}

#[test]
fn write_after_read_without_a_barrier() {
    let body = "
        threadgroup float tile[64];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float v = tile[63 - i];
        tile[i] = v;
        y[i] = v;";
    seeded(FaultKind::ThreadgroupRace, 7, body, "tile[i] = v;", &format!("{BARRIER} tile[i] = v;"));
}

#[test]
fn many_readers_then_a_writer() {
    // The last reader is the writer itself; the race is with the lanes before it.
    let body = "
        threadgroup float one[1];
        uint i = thread_position_in_grid.x;
        if (i == 0) one[0] = x[0];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float v = one[0];
        if (i == 63) one[0] = v + 1;
        y[i] = v;";
    seeded(FaultKind::ThreadgroupRace, 7, body, "if (i == 63)", &format!("{BARRIER} if (i == 63)"));
}

#[test]
fn race_in_an_output() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i / 2] = x[i];
        y[32 + i / 2] = x[i];";
    let bad = Case::new(body).faults();
    expect(&bad, FaultKind::DeviceRace, 3);
    expect(&bad, FaultKind::DeviceRace, 4);
    Case::new(&body.replace("i / 2", "i % 32").replace("y[", "if (i < 32) y[")).passes();
}

#[test]
fn race_between_threadgroups() {
    let body = "
        uint i = thread_position_in_threadgroup.x;
        y[i] = x[i];
        y[i + 32] = x[i];";
    let case = |body| Case { threadgroup: 32, ..Case::new(body) };
    let faults = case(body).faults();
    expect(&faults, FaultKind::DeviceRace, 3);
    assert_eq!((faults[0].threadgroup, faults[0].thread), ([1, 0, 0], [0, 0, 0]));
    case("y[thread_position_in_grid.x] = x[0];").passes();
}

#[test]
fn device_memory_needs_its_own_barrier() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float v = y[63 - i];
        threadgroup_barrier(mem_flags::mem_device);
        y[i] = v;";
    seeded(FaultKind::DeviceRace, 5, body, "mem_threadgroup", "mem_device");
}

#[test]
fn barrier_that_some_threads_skip() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i];
        if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);";
    let faults = seeded(FaultKind::BarrierDivergence, 4, body, "i < 32", "i < 64");
    assert!(faults[0].detail.contains("the end of the kernel"), "{}", faults[0].detail);
}

#[test]
fn barrier_after_an_early_return() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i];
        if (i >= 32) return;
        threadgroup_barrier(mem_flags::mem_threadgroup);";
    seeded(FaultKind::BarrierDivergence, 5, body, "i >= 32", "i >= 64");
}

#[test]
fn different_barriers() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i];
        if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
        else threadgroup_barrier(mem_flags::mem_threadgroup);";
    let faults = seeded(FaultKind::BarrierDivergence, 4, body, "i < 32", "i < 64");
    assert_eq!(faults[0].other_place.as_deref(), Some("seeded.metal:5"));
}

#[test]
fn barrier_inside_a_divergent_simdgroup() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] = x[i];
        if (i % 2 == 0) simdgroup_barrier(mem_flags::mem_none);
        threadgroup_barrier(mem_flags::mem_threadgroup);";
    let faults = seeded(FaultKind::SimdDivergence, 4, body, "i % 2 == 0", "true");
    assert_eq!(faults[0].other_place.as_deref(), Some("seeded.metal:5"));
}

#[test]
fn simd_sum_that_some_lanes_skip() {
    let body = "
        uint i = thread_position_in_grid.x;
        float v = x[i];
        if (i < 40) v = simd_sum(v);
        y[i] = v;";
    seeded(FaultKind::SimdDivergence, 4, body, "i < 40", "i < 32");
}

#[test]
fn different_numbers_of_turns() {
    let body = "
        uint i = thread_position_in_grid.x;
        float v = x[i];
        for (uint turn = 0; turn < 1 + i / 48; turn++) v = simd_max(v);
        y[i] = v;";
    seeded(FaultKind::SimdDivergence, 4, body, "i / 48", "i / 32");
}

#[test]
fn shuffle_from_a_lane_that_is_not_there() {
    let body = "
        uint i = thread_position_in_grid.x;
        float v = simd_shuffle(x[i], 20);
        if (i < 48) y[i] = v;";
    let case = |body| Case { grid: 48, threadgroup: 48, outputs: 48, ..Case::new(body) };
    expect(&case(body).faults(), FaultKind::SimdLane, 3);
    case(&body.replace("20", "15")).passes();
}

#[test]
fn unwritten_output() {
    let body = "
        uint i = thread_position_in_grid.x;
        if (i != 7) y[i] = x[i];";
    Case::new(&body.replace("i != 7", "true")).passes();
    let faults = Case::new(body).faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].kind, FaultKind::Unwritten);
    assert_eq!(faults[0].object.as_deref(), Some("y"));
    assert_eq!(faults[0].detail, "1 elements never written, the first at index 7");
}

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
fn arithmetic() {
    for (bad, good) in [
        ("100 / int(x[i])", "100 / int(x[i] + 1)"),
        ("1 << (int(x[i]) + 31)", "1 << (int(x[i]) % 31)"),
        ("int(x[i]) + 2147483640", "int(x[i]) + 2147483500"),
        ("int(x[i]) * 2147483640", "int(x[i]) * 4000"),
    ] {
        let body = format!(
            "
        uint i = thread_position_in_grid.x;
        y[i] = float({bad});"
        );
        seeded(FaultKind::Arithmetic, 3, &body, bad, good);
    }
}

#[test]
fn what_does_not_compile() {
    let error = Case::new("\n y[0] = nothing;").run();
    let Err(Error::Compile { message }) = error else { panic!("compiled") };
    assert!(message.contains("seeded.metal:2"), "{message}");
}

/// Faults that only types show.
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
