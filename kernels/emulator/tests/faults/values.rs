//! Unset values, and operations without a result.

use mlx_llamba_emulator::{Error, FaultKind};

use super::{Case, expect, seeded};

#[test]
fn variable_that_is_never_set() {
    let error = Case::new("\n float v; y[thread_position_in_grid.x] = v;").run();
    assert!(matches!(error, Err(Error::Compile { .. })), "{error:?}");
}

#[test]
fn uninitialized_threadgroup_memory() {
    let body = "
        threadgroup float tile[65];
        uint i = thread_position_in_grid.x;
        tile[i] = x[i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = tile[i + 1];";
    let faults = seeded(FaultKind::ThreadgroupUninitialized, 6, body, "i + 1", "63 - i");
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
    expect(&case.faults(), FaultKind::ThreadgroupUninitialized, 5);
    let body = body.replace("if (threadgroup_position_in_grid.x == 0)", "");
    Case { threadgroup: 32, ..Case::new(&body) }.passes();
}

#[test]
fn output_read_before_written() {
    let body = "
        uint i = thread_position_in_grid.x;
        y[i] += x[i];";
    seeded(FaultKind::OutputUninitialized, 3, body, "+=", "=");
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
