//! Damaged checkpoints, at random: opening, reading and converting one gives a value or an error,
//! and never a panic, a hang or a wild allocation.
//!
//! `PROPTEST_CASES=1000000 cargo test --release -p mlx-llamba-tests --test fuzz checkpoints` goes
//! on for longer.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mlx_llamba::checkpoint::Layout;
use mlx_llamba::convert::Conversion;
use mlx_llamba::inspect::Summary;
use mlx_llamba::quantize::{QuantizeOptions, Recipe};
use mlx_llamba::{Checkpoint, Config};
use mlx_llamba_tests::fixtures;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Sound checkpoints to damage, as small as they come: of every layout, and a sharded one.
fn seeds() -> &'static [PathBuf] {
    static SEEDS: OnceLock<(TempDir, Vec<PathBuf>)> = OnceLock::new();
    let (_, seeds) = SEEDS.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(fixtures::path("c_tied_exp2")).unwrap();
        let [mixed, sharded] = ["mixed", "sharded"].map(|name| directory.path().join(name));
        let options = QuantizeOptions::default().recipe(Recipe::Mixed);
        mlx_llamba::quantize::quantize(&source, &mixed, &options).unwrap();
        let mut conversion = Conversion::to(Layout::MlxLlamba);
        conversion.shard_bytes = 30_000;
        let source = Checkpoint::open(fixtures::path("m_mlx_4bit")).unwrap();
        mlx_llamba::convert::convert(&source, &sharded, &conversion).unwrap();
        let fixtures = ["a_base", "m_mlx_f32", "m_mlx_4bit"].map(fixtures::path);
        (directory, fixtures.into_iter().chain([mixed, sharded]).collect())
    });
    seeds
}

#[derive(Debug, Clone)]
enum Damage {
    /// Bits of the header's first bytes, or of the whole file.
    Flip {
        at: Index,
        bit: u8,
        header: bool,
    },
    Truncate {
        at: Index,
    },
    Insert {
        at: Index,
        bytes: Vec<u8>,
    },
    /// Another value somewhere in the header's JSON, its length set right.
    Header {
        at: Index,
        value: Value,
    },
    /// Another value somewhere in `config.json` or in the index.
    Json {
        at: Index,
        value: Value,
    },
    /// Cartesia's keys are JSON in strings.
    Metadata {
        at: Index,
        text: String,
    },
    /// One tensor under the name of another.
    Rename {
        from: Index,
        to: Index,
    },
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![0..300_i64, any::<i64>(), Just(-1)].prop_map(Value::from),
        prop_oneof![Just(u64::MAX), (0..64_u32).prop_map(|n| 1 << n)].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(vec![
            "F16",
            "BF16",
            "F32",
            "U32",
            "U8",
            "F64",
            "BOOL",
            "C64",
            "F4",
            "silu",
            "mxfp4",
            "nvfp4",
            "affine",
            "Infinity",
            "../x",
            "",
            "one.safetensors",
        ])
        .prop_map(Value::from),
        proptest::collection::vec(0..300_usize, 0..4).prop_map(Value::from),
        Just(json!([u64::MAX, 2])),
        Just(json!({"group_size": 32, "bits": 8})),
        Just(json!({})),
    ]
}

fn damages() -> impl Strategy<Value = Damage> {
    let at = any::<Index>();
    prop_oneof![
        2 => (at.clone(), 0..8_u8, any::<bool>())
            .prop_map(|(at, bit, header)| Damage::Flip { at, bit, header }),
        1 => at.clone().prop_map(|at| Damage::Truncate { at }),
        1 => (at.clone(), proptest::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        2 => (at.clone(), values()).prop_map(|(at, value)| Damage::Header { at, value }),
        8 => (at.clone(), values()).prop_map(|(at, value)| Damage::Json { at, value }),
        4 => (at.clone(), values().prop_map(|v| v.to_string()))
            .prop_map(|(at, text)| Damage::Metadata { at, text }),
        6 => (at.clone(), at).prop_map(|(from, to)| Damage::Rename { from, to }),
    ]
}

/// Values in a JSON tree, itself included.
fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Object(map) => map.values().map(count).sum(),
        Value::Array(list) => list.iter().map(count).sum(),
        _ => 0,
    }
}

/// Puts `value` in the place of the `n`th of them.
fn put_at(tree: &mut Value, mut n: usize, value: Value) {
    if n == 0 {
        *tree = value;
        return;
    }
    n -= 1;
    let children: Vec<&mut Value> = match tree {
        Value::Object(map) => map.values_mut().collect(),
        Value::Array(list) => list.iter_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let inside = count(child);
        if n < inside {
            return put_at(child, n, value);
        }
        n -= inside;
    }
}

fn put(tree: &mut Value, at: Index, value: Value) {
    let n = at.index(count(tree));
    put_at(tree, n, value);
}

/// Files of a directory that end in one of these words, sorted.
fn files(directory: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| ends.iter().any(|end| path.to_string_lossy().ends_with(end)))
        .collect();
    files.sort();
    files
}

fn apply(directory: &Path, damage: &Damage) {
    let weights = files(directory, &[".safetensors"]);
    let weights = &weights[0];
    // Damage on damage: a header may not be JSON any more.
    let edit = |change: &dyn Fn(&mut Value)| {
        let bytes = std::fs::read(weights).unwrap();
        let Some(length) = bytes.first_chunk().map(|&n| u64::from_le_bytes(n) as usize) else {
            return;
        };
        let Some(header) = bytes.get(8..).and_then(|rest| rest.get(..length)) else {
            return;
        };
        if serde_json::from_slice::<Value>(header).is_ok_and(|header| header.is_object()) {
            fixtures::edit(weights, |header, _| change(header));
        }
    };
    let raw = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(weights).unwrap();
        if !bytes.is_empty() {
            change(&mut bytes);
            std::fs::write(weights, bytes).unwrap();
        }
    };
    match damage {
        Damage::Flip { at, bit, header } => raw(&|bytes| {
            let end = if *header { bytes.len().min(3000) } else { bytes.len() };
            bytes[at.index(end)] ^= 1 << bit;
        }),
        Damage::Truncate { at } => raw(&|bytes| bytes.truncate(at.index(bytes.len()))),
        Damage::Insert { at, bytes: new } => raw(&|bytes| {
            let at = at.index(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }),
        Damage::Header { at, value } => edit(&|header| put(header, *at, value.clone())),
        Damage::Metadata { at, text } => edit(&|header| {
            if let Some(keys) = header.get_mut("__metadata__").filter(|keys| keys.is_object()) {
                put(keys, *at, json!(text));
            }
        }),
        Damage::Rename { from, to } => edit(&|header| {
            let header = header.as_object_mut().unwrap();
            let names: Vec<String> = header.keys().cloned().collect();
            if names.is_empty() {
                return;
            }
            let (from, to) = (&names[from.index(names.len())], &names[to.index(names.len())]);
            if let Some(tensor) = header.remove(from) {
                header.insert(to.clone(), tensor);
            }
        }),
        Damage::Json { at, value } => {
            let texts = files(directory, &["config.json", ".index.json"]);
            let Some(path) = texts.get(at.index(texts.len().max(1))) else {
                return;
            };
            let mut tree = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            put(&mut tree, *at, value.clone());
            std::fs::write(path, tree.to_string()).unwrap();
        }
    }
}

/// Everything that is done with a checkpoint without running it.
fn exercise(path: &Path) -> mlx_llamba::Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    for (name, _) in checkpoint.tensors() {
        checkpoint.array(name)?.eval()?;
    }
    let summary = Summary::of(&checkpoint)?;
    let _ = summary.to_string();
    let text = summary.config.to_string();
    let again = Config::from_json(path, &text).expect("what is written is read");
    assert_eq!(&again, checkpoint.config());
    let mut conversion = Conversion::to(Layout::PyTorch);
    conversion.dtype = Some(mlx_rs::Dtype::Float16);
    let output = path.join("converted");
    mlx_llamba::convert::convert(&checkpoint, &output, &conversion)?;
    Ok(())
}

/// Most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_checkpoints_open_or_fail(
        seed in any::<Index>(),
        damages in proptest::collection::vec(damages(), 1..3),
    ) {
        let seed = &seeds()[seed.index(seeds().len())];
        let directory = tempfile::tempdir().unwrap();
        for file in files(seed, &["config.json", ".index.json", ".safetensors"]) {
            if !file.ends_with("golden.safetensors") {
                std::fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
            }
        }
        for damage in &damages {
            apply(directory.path(), damage);
        }
        let start = Instant::now();
        if let Err(error) = exercise(directory.path()) {
            prop_assert!(error.to_string().len() < 20_000, "a message for people");
        }
        prop_assert!(start.elapsed() < Duration::from_secs(10));
        prop_assert!(peak() < 2 << 20, "{} KiB", peak());
    }
}
