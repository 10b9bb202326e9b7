//! Arithmetic and functions.

use mlx_llamba_emulator::{Buffer, Dtype};

use super::{iota, one_group};

#[test]
fn narrow_types_round_to_nearest_even_after_every_operation() {
    use half::{bf16, f16};
    // Halfway cases of both types, carries, subnormals, overflow.
    let mut values =
        vec![0.0, -0.0, 1e-7, 6.1e-5, 65519.0, 65520.0, 1e30, f32::INFINITY, 3.3e38, -1.003_906_3];
    values.extend((0..200).map(|i| 1.0 + i as f32 / 1024.0 + (i % 3) as f32 / 4096.0));
    let n = values.len() as i32;
    let x = Buffer::f32(&[n], &values);
    let body = |t: &str| {
        format!(
            "uint i = thread_position_in_grid.x;
             {t} a = {t}(x[i]), b = {t}(1.2345f), c = {t}(-0.777f);
             y[i] = a * b + c;"
        )
    };
    let threads = n as u32;
    let y = one_group(&body("half"), &x, Dtype::F16, n, threads).outputs[0].to_f32();
    for (&v, y) in values.iter().zip(y) {
        let product = f16::from_f32(f16::from_f32(v).to_f32() * f16::from_f32(1.2345).to_f32());
        let want = f16::from_f32(product.to_f32() + f16::from_f32(-0.777).to_f32());
        assert_eq!(y.to_bits(), want.to_f32().to_bits(), "half {v}");
    }
    let y = one_group(&body("bfloat"), &x, Dtype::BF16, n, threads).outputs[0].to_f32();
    for (&v, y) in values.iter().zip(y) {
        let product = bf16::from_f32(bf16::from_f32(v).to_f32() * bf16::from_f32(1.2345).to_f32());
        let want = bf16::from_f32(product.to_f32() + bf16::from_f32(-0.777).to_f32());
        assert_eq!(y.to_bits(), want.to_f32().to_bits(), "bfloat {v}");
    }
}

#[test]
fn mixed_arithmetic_widens() {
    let body = "
        uint i = thread_position_in_grid.x;
        bfloat b = bfloat(1.00390625f);  // 1: halfway, to even
        half h = 0.1h;
        bfloat_sum += 0.0f;
        y[i] = b * x[i] + h;";
    let body = body.replace("bfloat_sum += 0.0f;", "b += 0.0f; b *= 2;");
    let y = one_group(&body, &iota(3), Dtype::F32, 3, 3).outputs[0].to_f32();
    let tenth = half::f16::from_f32(0.1).to_f32();
    assert_eq!(y, [0.0, 2.0, 4.0].map(|v| v + tenth));
}

#[test]
fn fast_functions_are_near_and_not_exact() {
    let x = Buffer::new(Dtype::F32, &[64], (1..65).map(|i| f64::from(i) / 16.0));
    for (name, exact) in
        [("exp", f64::exp as fn(f64) -> f64), ("log", f64::ln), ("rsqrt", |v| 1.0 / v.sqrt())]
    {
        for (space, ulps) in [("", 0.5001), ("precise::", 0.5001), ("fast::", 3.0)] {
            let body = format!("uint i = thread_position_in_grid.x; y[i] = {space}{name}(x[i]);");
            let y = one_group(&body, &x, Dtype::F32, 64, 64).outputs[0].to_f64();
            let mut most = 0.0f64;
            for (v, y) in x.to_f64().into_iter().zip(y) {
                let want = exact(v);
                let exponent = want.abs().max(1e-30).log2().floor();
                most = most.max((y - want).abs() / (exponent - 23.0).exp2());
            }
            assert!(most <= ulps, "{space}{name}: {most} ulp");
            assert_eq!(most > 1.0, space == "fast::", "{space}{name}: {most} ulp");
        }
    }
}

#[test]
fn functions_and_vectors() {
    let body = "
        uint i = thread_position_in_grid.x;
        float4 v = float4(x[i], 1, 2, 3);
        half4 h = half4(v);
        v.xy = v.xy + float2(h.zw);
        float4 w = fma(v, float4(2.0f), 1.0f - v * 0.5f);
        packed_float3 p = packed_float3(w.xyz);
        uint4 u = uint4(1, 2, 3, 4) << 2u;
        w += clamp(w, 0.0f, 2.0f) + select(float4(0), float4(100), v > 2.5f);
        bool b = any(v > 4.0f) && !all(v > 4.0f);
        y[i] = dot(w, float4(u)) + p[1] + float(b) + as_type<float>(as_type<uint>(0.5f)) +
               max(min(x[i], 0.5f), 0.25f) + sign(-x[i]) + rint(2.5f) + float(popcount(255u)) +
               float(metal::abs(-3)) + float(numeric_limits<half>::max()) + float(sizeof(float3));";
    let y = one_group(body, &iota(2), Dtype::F32, 2, 2).outputs[0].to_f32();
    let expected = |x: f32| {
        let v = [x + 2.0, 1.0 + 3.0, 2.0, 3.0];
        let w0 = v.map(|v: f32| v * 2.0 + (1.0 - v * 0.5));
        let mut w = w0;
        for i in 0..4 {
            w[i] += w0[i].clamp(0.0, 2.0) + if v[i] > 2.5 { 100.0 } else { 0.0 };
        }
        let dot: f32 = (0..4).map(|i| w[i] * (4 * (i + 1)) as f32).sum();
        let sign = if x > 0.0 { -1.0 } else { 0.0 };
        dot + w0[1] + 0.0 + 0.5 + x.clamp(0.25, 0.5) + sign + 2.0 + 8.0 + 3.0 + 65504.0 + 16.0
    };
    assert_eq!(y, [expected(0.0), expected(1.0)]);
}
