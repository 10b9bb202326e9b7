//! Quantized matrices against Python's mlx.core: the same arrays, the same numbers.
//!
//! `data/make_mlx_golden.py` made the numbers, on Linux x86_64 and its CPU back end. There they
//! must come back to the bit; elsewhere sums may be taken in another order.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use mlx_llamba::Checkpoint;
use mlx_llamba::mlx::floats;
use mlx_llamba_kernels::{Mode, Quantized, Scheme};
use mlx_llamba_tests::fixtures;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

/// Largest error of a product made by dequantizing first, or on another machine, relative to the
/// largest value of the product; measured below 4e-7.
const TOLERANCE: f32 = 1.5e-6;
const EXACT: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));
const MODES: [Mode; 4] = [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];

/// A golden matrix: its name, and the same arrays here.
struct Case {
    name: String,
    matrix: Quantized,
    columns: usize,
}

/// Runs `check` on every matrix; gives how many there are.
fn every_matrix(check: impl Fn(&Case, &SafeTensors<'_>)) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mlx_golden.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let names = golden.names();
    let names: Vec<_> = names.iter().filter_map(|n| n.strip_suffix(".dequantized")).collect();
    for name in &names {
        let matrix = match name.split_once('.').unwrap() {
            ("file", prefix) => of_file(prefix),
            (_, scheme) => of_scheme(scheme),
        };
        let groups = matrix.scales.dim(-1) as usize;
        let columns = groups * matrix.scheme.group_size;
        check(&Case { name: (*name).to_owned(), matrix, columns }, &golden);
    }
    names.len()
}

/// A matrix of the Cartesia file, by its name there.
fn of_file(prefix: &str) -> Quantized {
    let checkpoint = Checkpoint::open(fixtures::path("m_mlx_4bit")).unwrap();
    let stored = format!("{prefix}.weight");
    let (name, _) = checkpoint.tensors().find(|(_, tensor)| tensor.name() == stored).unwrap();
    let name = name.strip_suffix(".weight").unwrap();
    let part = |part: &str| checkpoint.array(&format!("{name}.{part}")).unwrap();
    Quantized {
        weight: part("weight"),
        scales: part("scales"),
        biases: Some(part("biases")),
        scheme: checkpoint.scheme(name).unwrap(),
    }
}

/// The matrix of the dense fixture, quantized here.
fn of_scheme(scheme: &str) -> Quantized {
    let [mode, bits, group] = scheme.split('.').collect::<Vec<_>>()[..] else { panic!("{scheme}") };
    let mode = MODES.into_iter().find(|m| m.name() == mode).unwrap();
    let scheme = Scheme::new(group.parse().unwrap(), bits.parse().unwrap(), mode).unwrap();
    let checkpoint = Checkpoint::open(fixtures::path("a_base")).unwrap();
    let dense = checkpoint.array("backbone.layers.0.mlp.down_proj.weight").unwrap();
    Quantized::quantize(&dense, scheme).unwrap()
}

fn numbers(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let (words, _) = golden.tensor(name).unwrap().data().as_chunks::<4>();
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// The activations (rows, in): the three of the file, over and over.
fn activations(golden: &SafeTensors<'_>, columns: usize, rows: usize) -> Array {
    let values = numbers(golden, &format!("x.{columns}"));
    let values: Vec<f32> = values.into_iter().cycle().take(rows * columns).collect();
    Array::from_slice(&values, &[rows as i32, columns as i32])
}

fn compare(what: &str, found: &[f32], expected: &[f32], exact: bool) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let same = |f: f32, e: f32| {
        if exact { f.to_bits() == e.to_bits() } else { (f - e).abs() <= TOLERANCE * scale }
    };
    let bad: Vec<_> = (0..found.len())
        .filter(|&i| !same(found[i], expected[i]))
        .take(5)
        .map(|i| format!("[{i}] {} instead of {}", found[i], expected[i]))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

#[test]
fn dequantized_matrices_are_those_of_mlx_core() {
    let count = every_matrix(|case, golden| {
        let dense = floats(&case.matrix.dequantize(Dtype::Float32).unwrap()).unwrap();
        let bytes: Vec<u8> = dense.iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = golden.tensor(&format!("{}.dequantized", case.name)).unwrap();
        assert_eq!(Sha256::digest(&bytes)[..], *expected.data(), "{}", case.name);
    });
    assert!(count > 30, "{count}");
}

#[test]
fn products_with_few_rows_are_those_of_mlx_core() {
    every_matrix(|case, golden| {
        for (what, rows) in [("vector", 1), ("rows", 3)] {
            let name = format!("{}.{what}", case.name);
            let x = activations(golden, case.columns, rows);
            let product = floats(&case.matrix.matmul(&x).unwrap()).unwrap();
            compare(&name, &product, &numbers(golden, &name), EXACT);
        }
    });
}

/// Many rows take another path on a CPU: the matrix is dequantized first.
#[test]
fn products_with_many_rows_stay_close() {
    every_matrix(|case, golden| {
        let x = activations(golden, case.columns, 30);
        let product = floats(&case.matrix.matmul(&x).unwrap()).unwrap();
        let expected = numbers(golden, &format!("{}.rows", case.name)).repeat(10);
        compare(&case.name, &product, &expected, false);
    });
}
