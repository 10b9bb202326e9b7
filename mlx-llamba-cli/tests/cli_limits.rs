//! Without enough memory or threads, the command says so; no signal ends it, and it does not hang.
//!
//! `MLX_LLAMBA_ALL_LIMITS=1` tries all limits instead of a few.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

use mlx_llamba_tests::command::{Cli, Run, limited};
use mlx_llamba_tests::tiny::Tiny;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const GENERATE: [&str; 6] = ["generate", "-n", "3", "--temperature", "0", "Once upon"];

fn is_orderly(run: Run, limits: &str) -> bool {
    if run.code == Some(0) {
        return true;
    }
    assert!(run.code == Some(1), "{limits}: {run:?}");
    run.fails(&[]);
    false
}

fn all() -> bool {
    std::env::var_os("MLX_LLAMBA_ALL_LIMITS").is_some()
}

#[test]
fn little_memory_is_an_error() {
    // With less, the system's loader has no room for the command and its libraries.
    let limits: Vec<u32> = match all() {
        true => (0..50).map(|i| 160 + 28 * i).collect(),
        false => vec![160, 282, 640, 1500],
    };
    let run = |mib: &u32| {
        let limits = format!("-v {}", mib << 10);
        is_orderly(limited(&CLI.command(&GENERATE), &limits), &limits)
    };
    let done: Vec<bool> = limits.iter().map(run).collect();
    assert!(!done[0] && done[done.len() - 1], "{done:?}");
}

/// For another user than root, for whom there is no such limit.
#[test]
fn few_threads_are_an_error() {
    let as_nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command.env("MLX_LLAMBA_CONFIG", "/dev/null").env("HF_HOME", "/proc/nowhere");
        command
    };
    let version = as_nobody(CLI.0).arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no other user can run the command");
        return;
    }
    let limits: Vec<u32> = if all() { (2..41).collect() } else { vec![4, 7, 40] };
    let run = |count: &u32| {
        let limits = format!("-u {count}");
        is_orderly(limited(as_nobody(CLI.0).args(GENERATE), &limits), &limits)
    };
    let done: Vec<bool> = limits.iter().map(run).collect();
    assert!(!done[0] && done[done.len() - 1], "{done:?}");
}

/// Memory that runs out in the middle of the work.
#[test]
fn results_without_memory_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = Tiny { vocab: 50_000, d: 4, heads: [2, 2, 3, 4], tied: true, ..Tiny::default() };
    tiny.write(directory.path(), &tiny.tensors(1), safetensors::Dtype::BF16, 1);
    let model = directory.path().to_str().unwrap();
    let tokens = vec!["1"; 8000].join(",");
    let output = directory.path().join("logits.safetensors");
    let output = output.to_str().unwrap();
    let arguments = ["logits", "-m", model, "--tokens", &tokens, "--output", output];
    let run = limited(&CLI.command(&arguments), "-v 1000000");
    run.fails(&["no memory for 400000000 logits of 8000 tokens"]);
}

/// Pipes, devices and directories are no files.
#[test]
fn files_that_never_end_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    for path in [pipe, "/dev/zero", directory.path().to_str().unwrap()] {
        for arguments in [
            &["generate", "-n", "1", "--prompt-file", path][..],
            &["generate", "-n", "1", "x", "--state-in", path],
            &["generate", "-n", "1", "x", "--json-schema", path],
            &["generate", "-n", "1", "x", "--grammar", path],
            &["chat", "--tools", path, "x"],
            &["logits", "--batch", path, "--output", "/proc/nowhere/x"],
            &["serve", "--api-key-file", path],
            &["perplexity", path],
            &["distill", "--config", path],
        ] {
            let run = limited(&CLI.command(arguments), "-c 0");
            assert!(run.code == Some(1) || run.code == Some(2), "{arguments:?}: {run:?}");
            assert!(run.err.contains("error: "), "{arguments:?}: {run:?}");
        }
    }
    for path in [pipe, "/dev/zero"] {
        let run = limited(&CLI.command(&["generate", "-n", "1", "x", "--tokenizer", path]), "-c 0");
        assert!(run.code == Some(1), "{run:?}");
        let run = limited(&CLI.command(&["serve", "--chat-template", path]), "-c 0");
        assert!(run.code == Some(1), "{run:?}");
    }
}

#[test]
fn a_bias_that_is_no_number_is_refused() {
    for bias in ["1=1e99", "1=-1e39", "1=", "1=inf", "1=-inf", "1=infinity", "1=nan", "1=-NaN"] {
        let run = CLI.run(&["generate", "-n", "1", &format!("--logit-bias={bias}"), "x"]);
        assert!(run.code == Some(2) && run.err.contains("is not a number"), "{run:?}");
        // The same in a configuration file and in a variable.
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(config.path(), format!("logit-bias = ['{bias}']\n")).unwrap();
        let mut command = CLI.command(&["generate", "-n", "1", "x"]);
        Run::of(command.env("MLX_LLAMBA_CONFIG", config.path())).fails(&["is not a number"]);
        let mut command = CLI.command(&["generate", "-n", "1", "x"]);
        Run::of(command.env("MLX_LLAMBA_LOGIT_BIAS", bias)).fails(&["is not a number"]);
    }
}

/// A name that looks like a path is no repository: nothing is asked of the hub, which is not there.
#[test]
fn local_names_are_not_repositories() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("models")).unwrap();
    for name in ["models/mine", "other/model.safetensors", "other/model.gguf", "./mine", "a/b/c"] {
        let mut command = CLI.command(&["generate", "-n", "1", "--model", name, "x"]);
        let run = Run::of(command.current_dir(directory.path()));
        run.fails(&["no such file or directory, and not the name of a repository"]);
    }
}
