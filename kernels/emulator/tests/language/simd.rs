//! Simdgroup functions, barriers, atomics.

use mlx_llamba_emulator::Dtype;

use super::{iota, one_group, uneven};

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
