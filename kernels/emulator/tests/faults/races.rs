//! Unordered accesses.

use mlx_llamba_emulator::FaultKind;

use super::{Case, expect, seeded};

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
    // The fault is at whichever of the two comes second.
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
