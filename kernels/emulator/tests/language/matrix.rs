//! simdgroup_matrix.

use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, TemplateArg};

use super::{iota, one_group, run_clean};

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
        let body = "
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
        simdgroup_store(twice, y, 16, ulong2(8, 1));";
        let kernel = Kernel::new("matrix", &["a", "b", "c"], &["y"], body);
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
