//! Loads and stores out of bounds.

use mlx_llamba_emulator::{Buffer, Dtype, FaultKind, Kernel, Launch, run_offset};

use super::{Case, expect, seeded};

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
    // Every other store goes to the neighbor's element.
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
    // An access past the end of one of two arrays does not reach the other.
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
    let body = "uint i = thread_position_in_grid.x; y[i] = ((const device float2*)x)[i].y;";
    let kernel = Kernel::new("slice", &["x"], &["y"], body);
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
fn write_to_an_input() {
    let body = "
        uint i = thread_position_in_grid.x;
        ((device float*)x)[i] = 1.0f;
        y[i] = x[i];";
    seeded(FaultKind::InputWritten, 3, body, "((device float*)x)[i] = 1.0f;", "");
}
