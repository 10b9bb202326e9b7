//! `mlx-llamba logits` against the golden numbers, however the prompt is read.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;

use mlx_llamba_tests::command::{Cli, names};
use mlx_llamba_tests::fixtures::{self, Golden};
use safetensors::{Dtype, SafeTensors};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
/// The tolerance of tests/exactness.rs, relative to the largest value.
const TOLERANCE: f32 = 6e-6;

type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// Runs the command and reads its output file, which must be float32.
fn logits(fixture: &str, arguments: &[&str]) -> Tensors {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.safetensors");
    let model = fixtures::path(fixture);
    let fixed = ["logits", "--model", model.to_str().unwrap(), "-o", file.to_str().unwrap()];
    assert_eq!(CLI.ok(&[&fixed, arguments].concat()), "");
    assert_eq!(names(directory.path()), ["out.safetensors"]);
    read(&file)
}

fn read(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["model"].len(), 64);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let (words, _) = view.data().as_chunks::<4>();
        let values = words.iter().map(|&w| f32::from_le_bytes(w)).collect();
        (name.to_owned(), (view.shape().to_vec(), values))
    });
    tensors.collect()
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let bad: Vec<_> = (0..found.len())
        .filter(|&i| {
            let error = (found[i] - expected[i]).abs();
            error > TOLERANCE * scale || error.is_nan()
        })
        .take(5)
        .map(|i| format!("[{i}] {} instead of {}", found[i], expected[i]))
        .collect();
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

/// Compares all tensors under `prefix` with the golden ones: names, shapes and values.
fn check(what: &str, tensors: &Tensors, prefix: &str, golden: &Golden) {
    let tensor = |name: &str| &tensors[&format!("{prefix}{name}")];
    let (shape, values) = tensor("logits");
    assert_eq!(*shape, golden.logits.shape, "{what}");
    close(&format!("{what}: logits"), values, &golden.logits.values);
    for (i, (ssm, conv)) in golden.ssm_states.iter().zip(&golden.conv_states).enumerate() {
        let (shape, values) = tensor(&format!("layers.{i}.ssm_state"));
        assert_eq!(*shape, ssm.shape, "{what}"); // (h, p, n)
        close(&format!("{what}: ssm {i}"), values, &ssm.values);
        let (shape, values) = tensor(&format!("layers.{i}.conv_state"));
        let [channels, k] = conv.shape[..] else { panic!("{what}") };
        assert_eq!(*shape, [k - 1, channels], "{what}");
        // The golden one is (conv_dim, k), the oldest input first.
        let places = (1..k).flat_map(|tap| (0..channels).map(move |c| c * k + tap));
        let expected: Vec<f32> = places.map(|place| conv.values[place]).collect();
        close(&format!("{what}: conv {i}"), values, &expected);
    }
    let own = tensors.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(own, 1 + 2 * golden.ssm_states.len(), "{what}");
}

fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn every_layout_in_one_shot_in_pieces_and_step_by_step() {
    for fixture in ["b_grouped", "c_tied_exp2", "e_padvocab", "m_mlx_f32", "m_mlx_4bit"] {
        let goldens = fixtures::golden(fixture);
        let golden = goldens.iter().rfind(|g| (5..100).contains(&g.tokens.len())).unwrap();
        let tokens = list(&golden.tokens);
        for how in [&[][..], &["--split", "1,2"], &["--split", "3,1000"], &["--step"]] {
            let arguments = [&["--tokens", &tokens], how].concat();
            let what = format!("{fixture} {} {how:?}", golden.name);
            check(&what, &logits(fixture, &arguments), "", golden);
        }
    }
}

#[test]
fn rows_of_different_lengths() {
    for fixture in ["a_base", "m_mlx_4bit"] {
        let goldens = fixtures::golden(fixture);
        let rows: Vec<_> = goldens.iter().map(|g| &g.tokens).collect();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rows.json");
        std::fs::write(&file, serde_json::to_string(&rows).unwrap()).unwrap();
        for how in [&[][..], &["--split", "2,2,1"]] {
            let arguments = [&["--batch", file.to_str().unwrap()], how].concat();
            let tensors = logits(fixture, &arguments);
            for (row, golden) in goldens.iter().enumerate() {
                let what = format!("{fixture} row {row} {how:?}");
                check(&what, &tensors, &format!("{row}."), golden);
            }
            assert_eq!(tensors.len(), rows.len() * (1 + 2 * goldens[0].ssm_states.len()));
        }
    }
}

#[test]
fn a_text_is_its_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, arguments: &[&str]| {
        let file = path(name);
        let fixed = ["logits", "--output", file.to_str().unwrap()];
        CLI.ok(&[&fixed, arguments].concat());
        read(&file)
    };
    let tokenizer = mlx_llamba::Llamba::embedded().load().unwrap();
    let text = "Once upon a time";
    let ids = tokenizer.require_tokenizer().unwrap().encode(text, true).unwrap();
    let of_text = write("text", &["--prompt", text]);
    assert_eq!(of_text, write("ids", &["--tokens", &list(&ids)]));
    assert_eq!(of_text["logits"].0, [ids.len(), 4096]);
}

#[test]
fn bad_requests_write_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out");
    let out = file.to_str().unwrap();
    let rows = directory.path().join("rows");
    let rows_path = rows.to_str().unwrap();
    let fails = |arguments: &[&str], parts: &[&str]| {
        CLI.fails(&[&["logits", "-o", out], arguments].concat(), parts);
        assert!(!file.exists());
    };
    fails(&["--tokens", "1,4096"], &["token id 4096 at position 1", "4096"]);
    let split = ["logits", "-o", out, "--tokens", "1", "--split", "1,0"];
    CLI.refuses(&split, &["--split"]);
    assert!(!file.exists());
    fails(&["--batch", rows_path], &["cannot read", rows_path]);
    for (text, parts) in [
        ("[[1],[]]", &["row 1 has no tokens"][..]),
        ("[]", &["no rows"]),
        ("[1,2]", &["not a JSON list of lists"]),
        ("[[1,-2]]", &["not a JSON list of lists"]),
        ("[[1],[2,5000]]", &["token id 5000"]),
    ] {
        std::fs::write(&rows, text).unwrap();
        fails(&["--batch", rows_path], parts);
    }
    CLI.fails(&["logits", "--tokens", "1", "-o", "/proc/out"], &["cannot write /proc/out"]);
    CLI.fails(&["logits", "--tokens", "1", "-o", "/nowhere/out"], &["/nowhere is not a directory"]);
}
