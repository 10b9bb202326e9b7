//! Checkpoints written here: equal to what MLX makes, whole or not there at all.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_llamba::checkpoint::Layout;
use mlx_llamba::convert::{Conversion, convert};
use mlx_llamba::progress::Progress;
use mlx_llamba::quantize::{
    Override, QuantizeOptions, QuantizeReport, Recipe, quantize, quantize_with,
};
use mlx_llamba::{Checkpoint, Error};
use mlx_llamba_kernels::{Mode, Scheme};
use mlx_llamba_tests::fixtures::{self, CARTESIA, PYTORCH};
use mlx_rs::Dtype;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

fn run(source: &Checkpoint, output: &Path, options: &QuantizeOptions) -> QuantizeReport {
    quantize(source, output, options).unwrap()
}

fn to(source: &Checkpoint, output: &Path, conversion: &Conversion) -> Checkpoint {
    open(convert(source, output, conversion).unwrap())
}

/// A directory of a test with its files' names sorted.
fn list(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let array = checkpoint.array(name).unwrap().as_dtype(Dtype::Float32).unwrap();
    array.eval().unwrap();
    array.as_slice::<f32>().to_vec()
}

fn pair() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out");
    (directory, output)
}

#[test]
fn arrays_equal_those_of_python_mlx_in_every_scheme_and_dtype() {
    let golden = fixtures::path("mx_quantize").join("golden.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let base = open(fixtures::path("a_base"));
    let (directory, _) = pair();
    let in_dtype = |name: &str, dtype| {
        let mut conversion = Conversion::to(Layout::PyTorch);
        conversion.dtype = Some(dtype);
        to(&base, &directory.path().join(name), &conversion)
    };
    let sources = [
        ("F32", open(fixtures::path("a_base"))),
        ("F16", in_dtype("f16", Dtype::Float16)),
        ("BF16", in_dtype("bf16", Dtype::Bfloat16)),
    ];
    let mut compared = 0;
    for (i, entry) in golden["quantized"].as_array().unwrap().iter().enumerate() {
        let size = |key: &str| entry[key].as_u64().unwrap() as usize;
        let mode: Mode = serde_json::from_value(entry["mode"].clone()).unwrap();
        let mut options =
            QuantizeOptions::new(mode, Some(size("bits")), Some(size("group_size"))).unwrap();
        if size("group_size") == 128 {
            // Only these rows are long enough.
            let only = |pattern: &str, scheme| Override { pattern: pattern.into(), scheme };
            options.overrides = vec![only("*", None), only("down_proj", Some(options.scheme))];
        }
        let (_, source) = sources.iter().find(|(name, _)| entry["dtype"] == *name).unwrap();
        let output = directory.path().join(i.to_string());
        run(source, &output, &options);
        let bytes = std::fs::read(output.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (name, expected) in entry["arrays"].as_object().unwrap() {
            let hash = Sha256::digest(tensors.tensor(name).unwrap().data());
            let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(expected.as_str(), Some(&*hex), "{name} of {}", options.scheme.bits);
            compared += 1;
        }
        std::fs::remove_dir_all(output).unwrap();
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn a_quantized_checkpoint_has_the_block_of_mlx_lm_and_opens() {
    let (_directory, output) = pair();
    let source = open(fixtures::path("a_base"));
    let report = run(&source, &output, &QuantizeOptions::default());
    assert_eq!(list(&output), ["README.md", "config.json", "model.safetensors"]);
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("config.json")).unwrap())
            .unwrap();
    let block = serde_json::json!({"group_size": 64, "bits": 4, "mode": "affine"});
    assert_eq!(config["quantization"], block);
    assert_eq!(config["quantization_config"], block);
    assert_eq!(config.get("split_a_log"), None);
    let written = open(&output);
    assert_eq!(written.layout(), Layout::MlxLlamba);
    assert_eq!(written.scheme("backbone.embedding").unwrap().bits, 4);
    assert_eq!(written.scheme("lm_head").unwrap().group_size, 64);
    assert_eq!(written.tensor("backbone.layers.0.mixer.in_proj.weight").unwrap().shape(), [260, 8]);
    // Tensors that are not matrices are unchanged.
    for (name, _) in source.tensors().filter(|(name, _)| !written.is_matrix(name)) {
        assert_eq!(values(&written, name), values(&source, name), "{name}");
    }
    let bits = 8.0 * written.tensor_bytes() as f64 / source.parameters() as f64;
    assert!((report.bits_per_weight - bits).abs() < 1e-9 && bits > 5.0 && bits < 5.6, "{bits}");
}

trait IsMatrix {
    fn is_matrix(&self, name: &str) -> bool;
}

impl IsMatrix for Checkpoint {
    fn is_matrix(&self, name: &str) -> bool {
        name.strip_suffix(".weight").is_some_and(|prefix| self.scheme(prefix).is_some())
    }
}

#[test]
fn the_mixed_recipe_keeps_a_log_dense_to_the_bit() {
    for name in PYTORCH {
        let (_directory, output) = pair();
        let source = open(fixtures::path(name));
        let options = QuantizeOptions::default().recipe(Recipe::Mixed);
        run(&source, &output, &options);
        let written = open(&output);
        let config = written.config();
        assert!(config.split_a_log);
        let h = config.dims().h;
        let in_proj = values(&source, "backbone.layers.1.mixer.in_proj.weight");
        let a_log = values(&written, "backbone.layers.1.mixer.A_log_proj.weight");
        assert_eq!(a_log, in_proj[in_proj.len() - h * config.d_model..]);
        let rows = written.tensor("backbone.layers.1.mixer.in_proj.weight").unwrap().shape()[0];
        assert_eq!(rows, config.dims().in_proj_dim() - h);
        let head = if config.tie_embeddings { "backbone.embedding" } else { "lm_head" };
        assert_eq!(written.scheme(head).unwrap().bits, 6);
        assert_eq!(written.scheme("backbone.layers.0.mlp.up_proj").unwrap().bits, 4);
    }
}

#[test]
fn splitting_and_joining_in_proj_gives_the_original_back() {
    let (directory, output) = pair();
    let source = open(fixtures::path("b_grouped"));
    let only = |pattern: &str, scheme| Override { pattern: pattern.into(), scheme };
    let options = QuantizeOptions::default().recipe(Recipe::Mixed).overrides(vec![only("*", None)]);
    run(&source, &output, &options);
    let split = open(&output);
    assert!(split.config().split_a_log && split.config().quantization.is_none());
    let joined = to(&split, &directory.path().join("joined"), &Conversion::to(Layout::PyTorch));
    assert_eq!(joined.fingerprint(), source.fingerprint());
    assert_eq!(joined.config(), source.config());
}

#[test]
fn floats_can_be_cast_before_they_are_quantized() {
    let (_directory, output) = pair();
    let source = open(fixtures::path("a_base"));
    let options = QuantizeOptions::default().dtype(Dtype::Float16);
    let report = run(&source, &output, &options);
    let written = open(&output);
    assert_eq!(written.tensor("lm_head.scales").unwrap().dtype_name(), "float16");
    assert_eq!(written.tensor("backbone.layers.0.mixer.D").unwrap().dtype_name(), "float16");
    assert!(report.bits_per_weight < 4.8, "{report}");
}

#[test]
fn overrides_and_exclusions_are_written_per_tensor() {
    let (_directory, output) = pair();
    let six = Scheme::new(32, 6, Mode::Affine).unwrap();
    let only = |pattern: &str, scheme| Override { pattern: pattern.into(), scheme };
    let options = QuantizeOptions::default()
        .embedding(false)
        .head(false)
        .overrides(vec![only("layers.0.mlp.*", Some(six)), only("layers.0.mlp.up_proj", None)]);
    let report = run(&open(fixtures::path("a_base")), &output, &options);
    let written = open(&output);
    assert_eq!(written.scheme("backbone.embedding"), None);
    assert_eq!(written.scheme("lm_head"), None);
    assert_eq!(written.scheme("backbone.layers.0.mlp.up_proj"), None);
    assert_eq!(written.scheme("backbone.layers.0.mlp.gate_proj"), Some(six));
    assert_eq!(written.scheme("backbone.layers.1.mlp.gate_proj").unwrap().bits, 4);
    let block = written.config().quantization.clone().unwrap();
    assert_eq!(block.overrides.len(), 2, "only what differs: {:?}", block.overrides);
    for (path, scheme) in report.matrices {
        assert_eq!(written.scheme(&path), scheme, "{path}");
    }
}

#[test]
fn every_fixture_converts_to_our_layout_with_the_same_arrays() {
    for name in PYTORCH.into_iter().chain(CARTESIA) {
        let (_directory, output) = pair();
        let source = open(fixtures::path(name));
        let written = to(&source, &output, &Conversion::to(Layout::MlxLlamba));
        assert_eq!(written.layout(), Layout::MlxLlamba);
        assert_eq!(written.fingerprint(), source.fingerprint(), "{name}");
        assert_eq!(written.config(), source.config());
    }
}

#[test]
fn shards_hold_the_same_arrays() {
    let (_directory, output) = pair();
    let source = open(fixtures::path("m_mlx_4bit"));
    let mut conversion = Conversion::to(Layout::MlxLlamba);
    conversion.shard_bytes = 20_000;
    let written = to(&source, &output, &conversion);
    assert!(written.files().count() > 3);
    assert_eq!(written.fingerprint(), source.fingerprint());
}

#[test]
fn quantized_files_become_dense_with_the_values_that_mlx_gives() {
    let (_directory, output) = pair();
    let source = open(fixtures::path("m_mlx_4bit"));
    let mut conversion = Conversion::to(Layout::PyTorch);
    conversion.dtype = Some(Dtype::Float32);
    let dense = to(&source, &output, &conversion);
    assert_eq!(dense.layout(), Layout::PyTorch);
    assert!(dense.tensors().all(|(_, tensor)| tensor.dtype_name() == "float32"));
    let prefix = "backbone.layers.1.mlp.down_proj";
    let part = |suffix: &str| source.array(&format!("{prefix}.{suffix}")).unwrap();
    let expected = mlx_llamba_kernels::Quantized {
        weight: part("weight"),
        scales: part("scales"),
        biases: Some(part("biases")),
        scheme: source.scheme(prefix).unwrap(),
    };
    let expected = expected.dequantize(Dtype::Float32).unwrap();
    expected.eval().unwrap();
    assert_eq!(values(&dense, &format!("{prefix}.weight")), expected.as_slice::<f32>());
}

#[test]
fn tokenizer_files_come_along() {
    let source = fixtures::copy("a_base");
    for name in ["tokenizer.json", "generation_config.json", "chat_template.jinja", "notes.txt"] {
        std::fs::write(source.path().join(name), name).unwrap();
    }
    let (_directory, output) = pair();
    run(&open(source.path()), &output, &QuantizeOptions::default());
    let expected = [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(list(&output), expected);
}

#[test]
fn an_existing_output_is_refused_unless_it_is_a_checkpoint_to_replace() {
    let source = open(fixtures::path("a_base"));
    let (directory, output) = pair();
    std::fs::create_dir(&output).unwrap();
    let mut options = QuantizeOptions::default();
    let refused = |options: &QuantizeOptions| {
        let error = quantize(&source, &output, options).unwrap_err();
        assert!(matches!(error, Error::OutputExists { .. }), "{error}");
    };
    refused(&options);
    options.overwrite = true;
    run(&source, &output, &options);
    options.scheme.bits = 8;
    run(&source, &output, &options);
    assert_eq!(open(&output).scheme("lm_head").unwrap().bits, 8);
    assert_eq!(list(directory.path()), ["out"], "nothing is left of the old one");
    // Something else under that name is never taken away.
    std::fs::remove_file(output.join("model.safetensors")).unwrap();
    refused(&options);
    std::fs::create_dir(output.join("photos")).unwrap();
    refused(&options);
    std::fs::remove_dir_all(&output).unwrap();
    std::fs::write(&output, "a file").unwrap();
    refused(&options);
}

#[test]
fn an_interrupted_write_leaves_nothing() {
    let (directory, output) = pair();
    let mut calls = 0;
    let mut stop = |_: Progress<'_>| {
        calls += 1;
        if calls < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let source = open(fixtures::path("a_base"));
    let result = quantize_with(&source, &output, &QuantizeOptions::default(), &mut stop);
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(list(directory.path()), [""; 0]);
}

#[test]
fn a_killed_write_leaves_no_output_and_does_not_stop_the_next() {
    const TARGET: &str = "MLX_LLAMBA_TEST_KILLED_WRITE";
    let source = open(fixtures::path("a_base"));
    if let Ok(target) = std::env::var(TARGET) {
        // The child: stops in the middle until it is killed.
        let mut stall = |progress: Progress<'_>| {
            if 2 * progress.done > progress.total {
                println!("half way");
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
            ControlFlow::Continue(())
        };
        let _ = quantize_with(&source, Path::new(&target), &QuantizeOptions::default(), &mut stall);
        return;
    }
    let (directory, output) = pair();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["a_killed_write_leaves_no_output_and_does_not_stop_the_next", "--exact"])
        .arg("--nocapture")
        .env(TARGET, &output)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("half way")));
    child.kill().unwrap();
    child.wait().unwrap();
    let left = list(directory.path());
    assert!(left.len() == 1 && left[0].ends_with(".partial"), "{left:?}");
    run(&source, &output, &QuantizeOptions::default());
    open(&output);
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let (directory, _) = pair();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        eprintln!("not tried: mounting a small tmpfs needs root");
        return;
    };
    let source = open(fixtures::path("a_base"));
    let conversion = Conversion::to(Layout::MlxLlamba);
    let error = convert(&source, disk.0.join("out"), &conversion).unwrap_err();
    let Error::Io { action, path, source } = &error else { panic!("{error}") };
    assert_eq!((*action, source.kind()), ("write", std::io::ErrorKind::StorageFull));
    assert!(path.ends_with("model.safetensors"), "{error}");
    assert_eq!(list(&disk.0), [""; 0]);
}

/// A file system of 64 KiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at);
        let status = command.stderr(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn progress_ends_with_every_value_done() {
    let (_directory, output) = pair();
    let source = open(fixtures::path("a_base"));
    let mut last = (0, 0);
    let mut watch = |progress: Progress<'_>| {
        assert!(progress.done > last.0, "{}", progress.item);
        last = (progress.done, progress.total);
        ControlFlow::Continue(())
    };
    quantize_with(&source, &output, &QuantizeOptions::default(), &mut watch).unwrap();
    assert_eq!(last, (source.parameters(), source.parameters()));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let source = open(fixtures::path("a_base"));
    let output = Path::new("/proc/here/out");
    let error = quantize(&source, output, &QuantizeOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == output), "{error}");
}

#[test]
fn rows_that_do_not_divide_into_groups_are_all_named() {
    let source = open(fixtures::path("a_base"));
    let (directory, output) = pair();
    let options = QuantizeOptions::new(Mode::Affine, Some(4), Some(128)).unwrap();
    let error = quantize(&source, &output, &options).unwrap_err();
    let Error::NotQuantizable { problems, .. } = &error else { panic!("{error}") };
    // All matrices but two down_proj, which have 128 columns.
    assert_eq!(problems.len(), 2 * 4 + 2);
    assert!(error.to_string().contains("rows of 64 values do not divide into groups of 128"));
    assert_eq!(list(directory.path()), [""; 0]);
}

#[test]
fn unknown_schemes_and_patterns_are_refused() {
    let bad = |mode, bits, group| QuantizeOptions::new(mode, Some(bits), Some(group)).unwrap_err();
    assert!(matches!(bad(Mode::Affine, 7, 64), Error::Argument { .. }));
    assert!(matches!(bad(Mode::Affine, 4, 48), Error::Argument { .. }));
    assert!(matches!(bad(Mode::Mxfp4, 4, 64), Error::Argument { .. }));
    let (_directory, output) = pair();
    let nothing = Override { pattern: "q_proj".into(), scheme: None };
    let options = QuantizeOptions::default().overrides(vec![nothing]);
    let source = open(fixtures::path("a_base"));
    let error = quantize(&source, &output, &options).unwrap_err();
    assert!(error.to_string().contains("q_proj"), "{error}");
}

#[test]
fn what_is_quantized_is_quantized_again_only_on_request() {
    let source = open(fixtures::path("m_mlx_4bit"));
    let (_directory, output) = pair();
    let mut options = QuantizeOptions::new(Mode::Affine, Some(3), None).unwrap();
    let error = quantize(&source, &output, &options).unwrap_err();
    assert!(matches!(error, Error::AlreadyQuantized { bits: 4, .. }), "{error}");
    options.requantize = true;
    run(&source, &output, &options);
    assert_eq!(open(&output).scheme("lm_head").unwrap().bits, 3);
}

#[test]
fn cartesia_files_are_only_read() {
    let source = open(fixtures::path("a_base"));
    let (_directory, output) = pair();
    let conversion = Conversion::to(Layout::CartesiaMlx);
    let error = convert(&source, &output, &conversion).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "to", .. }), "{error}");
}
