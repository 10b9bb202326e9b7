//! Bad models and prompts: one line names the problem and its place, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use mlx_llamba_tests::command::{Cli, names};
use mlx_llamba_tests::fixtures;
use serde_json::Value;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// A copy of a fixture to damage.
struct Model(TempDir);

impl Model {
    fn copy(fixture: &str) -> Self {
        Self(fixtures::copy(fixture))
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn weights(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    fn config(self, change: impl FnOnce(&mut Value)) -> Self {
        let file = self.0.path().join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
        self
    }

    fn header(self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Self {
        fixtures::edit(&self.weights(), change);
        self
    }

    fn bytes(self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let bytes = std::fs::read(self.weights()).unwrap();
        std::fs::write(self.weights(), change(bytes)).unwrap();
        self
    }

    /// Asserts that every command refuses it with the same message, and that quantizing leaves
    /// nothing behind.
    fn is_refused(&self, parts: &[&str]) {
        let parts = [&[self.path()], parts].concat();
        let out = tempfile::tempdir().unwrap();
        let output = out.path().join("out").display().to_string();
        let generate = CLI.fails(&["generate", "-m", self.path(), "hi"], &parts);
        for arguments in [
            &["inspect", self.path()][..],
            &["logits", "-m", self.path(), "--tokens", "1", "-o", &output],
            &["quantize", "-m", self.path(), "--requantize", "-o", &output],
            &["convert", "-m", self.path(), "--to", "mlx", "-o", &output],
        ] {
            assert_eq!(CLI.fails(arguments, &parts), generate, "{arguments:?}");
        }
        assert!(names(out.path()).is_empty());
    }
}

#[test]
fn damaged_weight_files() {
    let base = || Model::copy("a_base");
    let d = "backbone.layers.0.mixer.D";
    base().bytes(|b| b[..b.len() - 100].to_vec()).is_refused(&["model.safetensors"]);
    base().bytes(|b| b[..4].to_vec()).is_refused(&["model.safetensors"]);
    base().bytes(|_| Vec::new()).is_refused(&["model.safetensors"]);
    let oversized = |b: Vec<u8>| [&u64::MAX.to_le_bytes(), &b[8..]].concat();
    base().bytes(oversized).is_refused(&["model.safetensors", "header"]);
    let overlapping = |header: &mut Value, _: &mut Vec<u8>| {
        let at = &header["backbone.embedding.weight"]["data_offsets"];
        let at = [0, 1].map(|i| at[i].as_u64().unwrap() + 4);
        header["lm_head.weight"]["data_offsets"] = at.to_vec().into();
    };
    base().header(overlapping).is_refused(&["model.safetensors", "lm_head.weight", "overlap"]);
    base().header(|header, _| header[d]["dtype"] = "I32".into()).is_refused(&[d, "dtype", "I32"]);
    Model::copy("m_mlx_4bit")
        .header(|header, _| header["head.linear.weight"]["dtype"] = "F32".into())
        .is_refused(&["head.linear.weight", "dtype"]);
}

#[test]
fn configurations_that_describe_no_model() {
    let base = || Model::copy("a_base");
    base()
        .config(|c| drop(c.as_object_mut().unwrap().remove("d_model")))
        .is_refused(&["d_model", "missing"]);
    base().config(|c| c["n_layer"] = (-1).into()).is_refused(&["n_layer", "-1"]);
    base().config(|c| c["vocab_size"] = 1_000_000_000_000u64.into()).is_refused(&["vocab_size"]);
    base().config(|c| c["ssm_cfg"]["n_qk_heads"] = 3.into()).is_refused(&["n_qk_heads", "3"]);
    base().config(|c| c["n_layer"] = 3.into()).is_refused(&["backbone.layers.2", "missing"]);
    let no_json = base();
    std::fs::write(no_json.0.path().join("config.json"), "{").unwrap();
    no_json.is_refused(&["config.json", "not valid JSON"]);
}

#[test]
fn places_without_a_model() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    CLI.fails(
        &["generate", "-m", path, "hi"],
        &[path, "no Llamba checkpoint", "model.safetensors"],
    );
    CLI.fails(&["inspect", "/nowhere"], &["/nowhere", "no such file"]);
    CLI.fails(
        &["generate", "-m", fixtures::path("a_base").to_str().unwrap(), "hi"],
        &["no tokenizer", "--tokenizer"],
    );
    CLI.fails(&["generate", "--tokenizer", path, "hi"], &["no tokenizer", path]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("stories").display().to_string();
    CLI.ok(&["convert", "--to", "mlx", "--output", &model]);
    let tiny = fixtures::path("a_base").display().to_string();
    let parts = ["tokenizer.json", "4095", "257", "another model"];
    CLI.fails(&["generate", "-m", &tiny, "--tokenizer", &model, "hi"], &parts);
    // A report needs it too, and is checked before the work begins.
    let (text, output) = (format!("{model}/README.md"), out.path().join("q").display().to_string());
    let quantize = ["quantize", "-m", &tiny, "-o", &output, "--report", &text];
    CLI.fails(&quantize, &["no tokenizer"]);
    CLI.fails(&[&quantize[..], &["--tokenizer", &model]].concat(), &parts);
    std::fs::write(&text, "").unwrap();
    let report = ["quantize", "-m", &model, "--requantize", "-o", &output, "--report", &text];
    CLI.fails(&report, &["README.md", "1 token;"]);
    assert_eq!(names(out.path()), ["stories"]);
}

#[test]
fn weights_that_are_not_numbers_are_warned_of() {
    let name = "backbone.layers.1.mixer.out_proj.weight";
    let model = Model::copy("a_base").header(|header, data| {
        let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        data[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let out = model.0.path().join("out").display().to_string();
    for arguments in [
        ["logits", "-m", model.path(), "--tokens", "1", "-o", &out],
        ["quantize", "-m", model.path(), "--bits", "4", "-o", &format!("{out}2")],
    ] {
        let run = CLI.run(&arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        let warning = run.err.lines().next().unwrap();
        assert!(warning.starts_with("warn: ") && warning.contains(name), "{run:?}");
        assert_eq!(
            CLI.run(
                &[
                    &["--log-level", "off"],
                    &arguments[..5],
                    &["-o", &format!("{}-quiet", arguments[6])]
                ]
                .concat()
            )
            .err,
            ""
        );
    }
}

#[test]
fn schemes_that_do_not_exist_or_do_not_fit() {
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("out").display().to_string();
    let model = fixtures::path("a_base").display().to_string();
    let fails = |options: &[&str], parts: &[&str]| {
        CLI.fails(&[&["quantize", "-m", &model, "-o", &output], options].concat(), parts);
        assert!(names(out.path()).is_empty());
    };
    let refuses = |options: &[&str], parts: &[&str]| {
        CLI.refuses(&[&["quantize", "-m", &model, "-o", &output], options].concat(), parts);
        assert!(names(out.path()).is_empty());
    };
    refuses(&["--bits", "7"], &["7 bits", "2, 3, 4, 5, 6 and 8"]);
    refuses(&["--group-size", "48"], &["group size 48", "32, 64 and 128"]);
    refuses(&["--mode", "mxfp4", "--bits", "8"], &["mxfp4", "group size 32 and 4 bits"]);
    fails(&["--group-size", "128"], &["backbone.embedding", "128", "override"]);
    refuses(&["--override", "nothing=4"], &["--override nothing", "names a matrix"]);
    refuses(&["--override", "lm_head"], &["--override lm_head", "PATTERN="]);
    let quantized = fixtures::path("m_mlx_4bit").display().to_string();
    CLI.fails(
        &["quantize", "-m", &quantized, "-o", &output],
        &["quantized already", "--requantize"],
    );
    assert!(names(out.path()).is_empty());
}

#[test]
fn prompts_that_are_no_text() {
    let run = CLI.with_input(&["generate", "-"], b"ab\xff\xfe");
    run.fails(&["standard input is not UTF-8", "2"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prompt");
    std::fs::write(&file, b"\xc3").unwrap();
    let path = file.to_str().unwrap();
    CLI.fails(&["generate", "--prompt-file", path], &[path, "not UTF-8"]);
    CLI.fails(&["generate", "--prompt-file", "/nowhere"], &["cannot read /nowhere"]);
    CLI.refuses(&["generate"], &["nothing to continue", "--prompt-file"]);
}

#[test]
fn a_long_prompt_is_read_to_its_end() {
    let prompt = "The cat sat on the mat. ".repeat(400);
    let run = CLI.with_input(&["generate", "-t", "0", "-n", "2", "--json", "-"], prompt.as_bytes());
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    assert!(run.out.contains("\"prompt_tokens\":28"), "{}", run.out.lines().last().unwrap());
}

#[test]
fn states_of_other_models_and_other_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (model, state) = (path("other"), path("state"));
    CLI.ok(&["convert", "--to", "pytorch", "--output", &model]);
    CLI.ok(&["generate", "-n", "2", "--state-out", &state, "hi"]);
    let fails = |arguments: &[&str], parts: &[&str]| {
        CLI.fails(&[&["generate", "-n", "2"], arguments].concat(), parts);
    };
    fails(&["-m", &model, "--state-in", &state], &[&state, "another model"]);
    fails(&["--state-in", &path("none")], &["cannot read", "none"]);
    fails(&["--state-in", &format!("{model}/tokenizer.json")], &["tokenizer.json", "damaged"]);
    let mut bytes = std::fs::read(&state).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&state, bytes).unwrap();
    fails(&["--state-in", &state, "--state-out", &path("new")], &[&state, "damaged"]);
    assert_eq!(names(directory.path()), ["other", "state"]);
}
