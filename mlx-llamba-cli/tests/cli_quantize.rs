//! `mlx-llamba quantize`, `convert` and `inspect`: the resulting models work.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use mlx_llamba_tests::command::{Cli, names};
use mlx_llamba_tests::fixtures;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// A directory for outputs, and paths in it.
struct Outputs(TempDir);

impl Outputs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command that writes `name`, and returns its path.
    fn write(&self, name: &str, arguments: &str) -> String {
        let path = self.path(name).display().to_string();
        let arguments: Vec<&str> = arguments.split(' ').chain(["--output", &path]).collect();
        let out = CLI.ok(&arguments);
        assert!(out.contains(&path) && out.lines().count() == 1, "{out}");
        path
    }
}

fn fixture(name: &str) -> String {
    fixtures::path(name).display().to_string()
}

/// Lists all tensors of a model by name: name, dtype, shape, bytes.
fn tensors(model: impl AsRef<Path>) -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(model.as_ref().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .iter()
        .map(|(name, view)| {
            let dtype = format!("{:?}", view.dtype());
            (name.to_owned(), dtype, view.shape().to_vec(), view.data().to_vec())
        })
        .collect();
    all.sort();
    all
}

fn inspect(model: &str) -> Value {
    serde_json::from_str(&CLI.ok(&["inspect", model, "--json"])).unwrap()
}

#[test]
fn the_model_inside_can_be_written_and_quantized_again() {
    let outputs = Outputs::new();
    let text = |model: &[&str]| {
        CLI.ok(&[&["generate", "-t", "0", "-n", "16", "Once upon a time"], model].concat())
    };
    let same = outputs.write("same", "convert --to mlx");
    assert_eq!(
        names(Path::new(&same)),
        [
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!(text(&["--model", &same]), text(&[]));
    let dense = outputs.write("dense", "convert --to pytorch --dtype float32");
    assert_eq!(text(&["--model", &dense]), text(&[]));

    let held_out = outputs.path("held-out.txt");
    std::fs::write(&held_out, "Lily had a red ball. She liked to play with it.").unwrap();
    let eight = outputs.path("eight").display().to_string();
    let report = CLI.ok(&[
        "quantize",
        "-m",
        &dense,
        "--bits",
        "8",
        "-o",
        &eight,
        "--report",
        held_out.to_str().unwrap(),
    ]);
    let lines: Vec<&str> = report.lines().collect();
    assert!(lines[0].starts_with(&eight) && lines[0].contains("bits per weight"));
    assert!(lines[1].contains("perplexity") && lines[1].contains("mean KL 0.000"), "{report}");
    assert_eq!(lines.len(), 2);
    assert!(text(&["--model", &eight]).len() > 16);
}

#[test]
fn reports_are_json_too() {
    let outputs = Outputs::new();
    let dense = outputs.write("dense", "convert --to pytorch");
    let text = outputs.path("text");
    std::fs::write(&text, "The dog ran home.").unwrap();
    let (text, out) = (text.display().to_string(), outputs.path("out").display().to_string());
    let arguments =
        ["quantize", "-m", &dense, "-o", &out, "--recipe", "mixed", "--json", "--report"];
    let report: Value =
        serde_json::from_str(&CLI.ok(&[&arguments[..], &[&text]].concat())).unwrap();
    assert!(report["quantized"]["bits_per_weight"].as_f64().unwrap() < 7.0);
    assert!(report["comparison"]["mean_kl"]["value"].as_f64().unwrap() >= 0.0);
    assert_eq!(report["quantized"]["path"], out);
}

#[test]
fn every_option_of_quantize_reaches_the_matrices() {
    let outputs = Outputs::new();
    let model = fixture("a_base");
    for (i, (options, bits, group, mode)) in [
        ("--bits 4", 4, 64, "affine"),
        ("--bits 2 --group-size 32", 2, 32, "affine"),
        ("--bits 6 --keep-embedding --keep-head", 6, 64, "affine"),
        ("--mode mxfp8", 8, 32, "mxfp8"),
        ("--mode nvfp4 --override mlp.*=8:32", 4, 16, "nvfp4"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = outputs.write(&i.to_string(), &format!("quantize -m {model} {options}"));
        let all = inspect(&path);
        let block = &all["config"]["quantization"];
        assert_eq!(
            (&block["bits"], &block["group_size"], &block["mode"]),
            (&bits.into(), &group.into(), &mode.into()),
            "{options}"
        );
        let has = |name: &str| tensors(&path).iter().any(|tensor| tensor.0 == name);
        let keeps = options.contains("keep");
        assert_eq!(has("backbone.embedding.scales"), !keeps, "{options}");
        assert_eq!(has("lm_head.scales"), !keeps, "{options}");
        assert!(has("backbone.layers.0.mixer.in_proj.scales"), "{options}");
        let overridden = &block["backbone.layers.1.mlp.up_proj"]["bits"];
        assert_eq!(*overridden == 8, options.contains("override"), "{options}");
        CLI.ok(&[
            "logits",
            "-m",
            &path,
            "--tokens",
            "1,2",
            "-o",
            outputs.path("l").to_str().unwrap(),
        ]);
    }
}

#[test]
fn there_and_back_is_equal_to_the_bit() {
    let outputs = Outputs::new();
    for name in fixtures::PYTORCH {
        let ours =
            outputs.write(&format!("{name}.c"), &format!("convert -m {} --to mlx", fixture(name)));
        let back = outputs.write(&format!("{name}.a"), &format!("convert -m {ours} --to pytorch"));
        assert!(tensors(fixture(name)) == tensors(&back), "{name}");
    }
}

#[test]
fn cartesia_files_keep_their_numbers() {
    let outputs = Outputs::new();
    for name in fixtures::CARTESIA {
        let ours = outputs.write(name, &format!("convert -m {} --to mlx", fixture(name)));
        let logits = |model: &str, to: &str| {
            let file = outputs.path(to);
            let tokens = "3,1,4,1,5,9,2,6,5,3,5";
            CLI.ok(&["logits", "-m", model, "--tokens", tokens, "-o", file.to_str().unwrap()]);
            let bytes = std::fs::read(file).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let data = |name: &str| file.tensor(name).unwrap().data().to_vec();
            (data("logits"), data("layers.0.ssm_state"), data("layers.1.conv_state"))
        };
        assert!(logits(&fixture(name), "before") == logits(&ours, "after"), "{name}");
        assert_eq!(inspect(&ours)["fingerprint"], inspect(&fixture(name))["fingerprint"]);
    }
}

#[test]
fn inspect_tells_what_it_takes() {
    let text = CLI.ok(&["inspect"]);
    for part in
        ["llamba-stories", "parameters   13.1", "bits per weight", "state", "memory", "6 layers"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let model = fixture("m_mlx_4bit");
    assert!(CLI.ok(&["inspect", &model]).contains("Cartesia MLX"));
    assert_eq!(CLI.ok(&["inspect", "--model", &model]), CLI.ok(&["inspect", &model]));
    let all: Value =
        serde_json::from_str(&CLI.ok(&["inspect", &model, "--json", "--tensors"])).unwrap();
    let tensors = all["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|tensor| tensor["name"] == "lm_head.scales"), "{tensors:?}");
    for number in ["parameters", "tensor_bytes", "state_bytes", "memory_bytes"] {
        assert!(all[number].as_u64().unwrap() > 0, "{number}");
    }
    let listed = CLI.ok(&["inspect", &model, "--tensors"]);
    assert_eq!(listed.lines().filter(|l| l.contains('[')).count(), tensors.len());
}

#[test]
fn outputs_that_exist_are_replaced_on_request_only() {
    let outputs = Outputs::new();
    let model = fixture("a_base");
    let path = outputs.write("out", &format!("quantize -m {model} --bits 8"));
    let before = tensors(&path);
    let again = ["quantize", "-m", &model, "--bits", "4", "--output", &path];
    CLI.fails(&again, &[&path, "exists already", "--overwrite"]);
    CLI.fails(&["convert", "-m", &model, "--to", "mlx", "--output", &path], &["exists already"]);
    assert!(tensors(&path) == before);
    CLI.ok(&[&again[..], &["--overwrite"]].concat());
    assert!(tensors(&path) != before);
    assert_eq!(names(outputs.0.path()), ["out"]);
}
