//! Threads and lanes that do not reach a barrier or call.

use mlx_llamba_emulator::FaultKind;

use super::{Case, expect, seeded};

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
