//! Compares every kernel of this machine's GPU with the float64 oracle, over the emulator's list of
//! cases and the sizes of the published models. Prints a table; ends with 1 if an error is too large.
//!
//! Arguments: words; only cases whose rows have all of them are computed. A GPU's compiler takes about a
//! second for each of the 130 variants of a kernel that MLX has not cached.

#![allow(non_snake_case, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/support/mod.rs"]
mod support;

use mlx_llamba_kernels::{Backend, Draw, Mode, Quantized, Scheme, Weight};
use mlx_rs::ops::{concatenate, ones};
use mlx_rs::{Array, Device, DeviceType, Dtype};
use support::{
    Case, Data, Ring, Values, array, error_of, on, published, ragged, rings, scale_of, steps,
    tokens,
};

/// Largest error relative to the largest value, in float32.
const TOLERANCE: f64 = 1e-6;

/// Dtypes with what their last place is worth.
const HALVES: [(Dtype, f64); 2] = [(Dtype::Float16, 1.0 / 2048.0), (Dtype::Bfloat16, 1.0 / 256.0)];

fn main() {
    // MLX's float32 products round to 10 bits of mantissa on NVIDIA's GPUs; the comparison in 16 bits
    // is to hold beside exact ones.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("MLX_ENABLE_TF32", "0") };
    let device = Device::try_default().and_then(|device| device.get_type());
    if !matches!(device, Ok(DeviceType::Gpu)) {
        println!("MLX has no GPU here: nothing to check");
        return;
    }
    let backend = Backend::select(Dtype::Float32).expect("a back end");
    println!("{}\n", backend.describe());
    println!("{:<72} {:>9} {:>9}", "case", "error", "bound");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    let mut table = Table { failed: 0 };
    for case in [steps(), tokens(), ragged(), published()].concat() {
        if wanted(&name_of(&case)) {
            mixer(backend, &case, &mut table);
        }
        for (dtype, last_place) in HALVES {
            let case = case.clone().dtype(dtype);
            if wanted(&name_of(&case)) {
                half(backend, &case, last_place, &mut table);
            }
        }
    }
    for (dtype, bound) in [(Dtype::Float32, 5e-7), (HALVES[0].0, 1e-3), (HALVES[1].0, 8e-3)] {
        for shape in [[1, 7], [3, 24], [170, 130], [2, 4099], [66_000, 8]] {
            if wanted(&row_name("swiglu", dtype, shape)) {
                swiglu(backend, shape, dtype, bound, &mut table);
            }
            if wanted(&row_name("residual norm", dtype, shape)) {
                norm(backend, shape, dtype, bound, &mut table);
            }
        }
    }
    for (m, group_size, dtype) in matmuls() {
        for [rows, columns] in [[40, 256], [1024, 4096], [2592, 2048]] {
            if wanted(&matmul_name(dtype, [m, rows, columns], group_size)) {
                matmul(backend, dtype, [m, rows, columns], group_size, &mut table);
            }
        }
    }
    for ring in rings() {
        for (dtype, bound) in
            [(Dtype::Float32, TOLERANCE), (HALVES[0].0, 1e-3), (HALVES[1].0, 8e-3)]
        {
            ring_attention(backend, &Ring { dtype, ..ring.clone() }, bound, &wanted, &mut table);
        }
    }
    for (dtype, vocab) in [(Dtype::Float32, 701), (HALVES[0].0, 8), (HALVES[1].0, 49_152)] {
        if wanted(&format!("draw {dtype:?} {vocab}")) {
            draws(backend, dtype, vocab, &mut table);
        }
    }
    println!("\n{} of the errors are above their bounds; {}", table.failed, backend.report());
    std::process::exit(i32::from(table.failed > 0));
}

struct Table {
    failed: usize,
}

impl Table {
    fn row(&mut self, case: &str, error: f64, bound: f64) {
        let good = error <= bound;
        self.failed += usize::from(!good);
        let mark = if good { "" } else { "  <-- too large" };
        println!("{case:<72} {error:>9.1e} {bound:>9.1e}{mark}");
    }
}

fn row_name(operation: &str, dtype: Dtype, [rows, columns]: [usize; 2]) -> String {
    format!("{operation} {dtype:?} {rows} x {columns}")
}

fn name_of(case: &Case) -> String {
    let dims = case.dims;
    let mut name = format!(
        "mixer {:?} b={} l={} h={} g={} p={} n={} k={}",
        case.dtype,
        case.lengths.len(),
        case.l,
        dims.h,
        dims.g,
        dims.p,
        dims.n,
        dims.k
    );
    for (flag, word) in [
        (case.ragged, "ragged"),
        (case.split_A_log, "split"),
        (!case.conv_bias, "no-conv-bias"),
        (!case.z_bias, "no-z-bias"),
        (case.A_log > 3.0, "decays"),
    ] {
        if flag {
            name += " ";
            name += word;
        }
    }
    name
}

fn mixer(backend: Backend, case: &Case, table: &mut Table) {
    let data = Data::new(case);
    let [y, states] = error_of(case, &on(backend, case, &data), &data);
    table.row(&name_of(case), y.max(states), TOLERANCE);
}

/// In 16 bits an error may be twice that of the same computation in MLX's operations, or a unit in
/// the last place.
fn half(backend: Backend, case: &Case, last_place: f64, table: &mut Table) {
    let data = Data::new(case);
    let ours = error_of(case, &on(backend, case, &data), &data);
    let plain = error_of(case, &on(Backend::PLAIN, case, &data), &data);
    for (part, (ours, plain)) in ["y", "states"].into_iter().zip(ours.into_iter().zip(plain)) {
        table.row(&format!("{}: {part}", name_of(case)), ours, (2.0 * plain).max(last_place));
    }
}

/// Rows and columns of numbers that `dtype` holds exactly, and these numbers.
fn random(seed: u64, [rows, columns]: [usize; 2], dtype: Dtype) -> (Array, Vec<f64>) {
    let numbers = Values(seed).take(rows * columns, 3.0, dtype);
    (array(dtype, &[rows, columns], &numbers), numbers)
}

fn error(found: &Array, expected: &[f64]) -> f64 {
    largest(&support::values(found), expected)
}

/// The largest error relative to the largest value.
fn largest(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = found.iter().zip(expected).fold(0.0f64, |most, (f, e)| {
        if f.is_nan() { f64::INFINITY } else { most.max((f - e).abs()) }
    });
    largest / scale_of(expected)
}

/// Rows of activations, groups and dtypes of products with matrices of 4 bits: every form of the kernels,
/// and what they leave to MLX, whose own kernels take long to compile.
fn matmuls() -> Vec<(usize, usize, Dtype)> {
    let mut all = vec![(1, 64, Dtype::Float32), (5, 64, Dtype::Float32), (2, 32, Dtype::Float32)];
    all.extend([1, 2, 7, 8, 13, 17, 40, 64, 70].map(|m| (m, 64, Dtype::Bfloat16)));
    all.extend([1, 16, 17, 64].map(|m| (m, 64, Dtype::Float16)));
    all.extend([(1, 32), (33, 32), (1, 128)].map(|(m, group)| (m, group, Dtype::Bfloat16)));
    all
}

fn matmul_name(dtype: Dtype, [m, rows, columns]: [usize; 3], group_size: usize) -> String {
    format!("matmul {dtype:?} {m} x {columns} by {rows} g={group_size}")
}

/// An error may be twice that of MLX's own product, or a unit in the last place.
fn matmul(backend: Backend, dtype: Dtype, sizes: [usize; 3], group: usize, table: &mut Table) {
    let [m, rows, columns] = sizes;
    let (x, x64) = random(5, [m, columns], dtype);
    let (w, _) = random(6, [rows, columns], dtype);
    let scheme = Scheme::new(group, 4, Mode::Affine).unwrap();
    let weight = Quantized::quantize(&w, scheme).unwrap();
    let [scales, biases] = [&weight.scales, weight.biases.as_ref().unwrap()].map(support::values);
    let words: Vec<u32> = weight.weight.contiguous().unwrap().to_vec_exact().unwrap();
    let mut expected = vec![0.0; m * rows];
    for row in 0..rows {
        let w64: Vec<f64> = (0..columns)
            .map(|k| {
                let code = words[(row * columns + k) / 8] >> (k % 8 * 4) & 15;
                let at = (row * columns + k) / group;
                f64::from(code) * scales[at] + biases[at]
            })
            .collect();
        for (i, x64) in x64.chunks(columns).enumerate() {
            expected[i * rows + row] = x64.iter().zip(&w64).map(|(x, w)| x * w).sum();
        }
    }
    let weight = Weight::Quantized(weight);
    let [ours, mlx] = [backend, Backend::PLAIN]
        .map(|backend| error(&backend.matmul(&x, &weight).unwrap(), &expected));
    let last_place = HALVES.iter().find(|(half, _)| *half == dtype).map_or(1e-6, |half| half.1);
    let name = matmul_name(dtype, sizes, group);
    table.row(&name, ours, (2.0 * mlx).max(last_place));
}

fn swiglu(backend: Backend, [rows, m]: [usize; 2], dtype: Dtype, bound: f64, table: &mut Table) {
    let ((gate, g), (up, u)) = (random(1, [rows, m], dtype), random(2, [rows, m], dtype));
    let found = backend.swiglu(&concatenate(&[&gate, &up], 1).unwrap()).unwrap();
    let expected: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    table.row(&row_name("swiglu", dtype, [rows, m]), error(&found, &expected), bound);
}

fn norm(backend: Backend, [rows, d]: [usize; 2], dtype: Dtype, bound: f64, table: &mut Table) {
    let ((x, a), (y, b)) = (random(3, [rows, d], dtype), random(4, [rows, d], dtype));
    let weight = ones::<f32>(&[d as i32]).unwrap().as_dtype(dtype).unwrap();
    let (sum, normed) = backend.add_rms_norm(&x, &y, &weight, 1e-5).unwrap();
    let sums: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    let expected: Vec<f64> = sums
        .chunks(d)
        .flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / d as f64;
            row.iter().map(move |v| v / (mean + 1e-5).sqrt())
        })
        .collect();
    let error = error(&sum, &sums).max(error(&normed, &expected));
    table.row(&row_name("residual norm", dtype, [rows, d]), error, bound);
}

fn ring_attention(
    backend: Backend,
    ring: &Ring,
    bound: f64,
    wanted: &dyn Fn(&str) -> bool,
    table: &mut Table,
) {
    let Ring { h, g, k, room, read, dtype, .. } = ring;
    let b = ring.positions.len();
    let name = format!("ring attention {dtype:?} b={b} h={h} g={g} k={k} room={room} read={read}");
    if wanted(&name) {
        let data = ring.data();
        table.row(&name, largest(&ring.on(backend, &data), &ring.expected(&data)), bound);
    }
}

/// The share of rows whose draw is not that of MLX's operations.
fn draws(backend: Backend, dtype: Dtype, vocab: usize, table: &mut Table) {
    let (logits, _) = random(6, [50, vocab], dtype);
    let key = Array::from_slice(&[7_u32, 11], &[2]);
    let draw = Draw { vocab, temperature: 0.8, depth: 4.0, key: &key };
    let [ours, plain] = [backend, Backend::PLAIN]
        .map(|backend| support::values(&backend.draw(&logits, &draw).unwrap()));
    let other = ours.iter().zip(&plain).filter(|(ours, plain)| ours != plain).count();
    table.row(&format!("draw {dtype:?} {vocab}: other tokens"), other as f64 / 50.0, 0.0);
}
