//! Early ends: a full disk, a closed pipe, Ctrl-C, and kill -9.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlx_llamba_tests::command::{Cli, Run, large_model, names, signal, wait_for};
use mlx_llamba_tests::fixtures;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
/// Arguments for a text that does not end by itself.
const ENDLESS: [&str; 6] = ["generate", "-n", "1000000", "--ignore-eos", "--seed", "1"];

#[test]
fn outputs_that_cannot_be_written() {
    let model = fixtures::path("a_base").display().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let under = file.join("out").display().to_string();
    for output in ["/proc/out", under.as_str()] {
        CLI.fails(&["quantize", "-m", &model, "-o", output], &["cannot create", output]);
        CLI.fails(
            &["convert", "-m", &model, "--to", "mlx", "-o", output],
            &["cannot create", output],
        );
        CLI.fails(
            &["logits", "-m", &model, "--tokens", "1", "-o", output],
            &["cannot write", output],
        );
    }
    // Reported before a token is generated.
    let state = ["generate", "--state-out", &under, "hi"];
    CLI.fails(&state, &["cannot write", &under, "not a directory"]);
    let place = directory.path().to_str().unwrap();
    CLI.fails(&["generate", "--state-out", place, "hi"], &["cannot write", "it is a directory"]);
    assert_eq!(names(directory.path()), ["file"]);
}

#[test]
#[cfg(target_os = "linux")]
fn full_standard_output() {
    let mut command = CLI.command(&["generate", "-n", "3", "hi"]);
    let run = Run::of(command.stdout(File::create("/dev/full").unwrap()));
    run.fails(&["cannot write standard output", "No space left"]);
}

/// A file system of 64 KiB.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Returns `None` without permission to mount.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(directory.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_disks() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not tried: mounting a small tmpfs needs root");
        return;
    };
    let model = fixtures::path("a_base").display().to_string();
    let output = disk.0.path().join("out").display().to_string();
    for arguments in [
        &["quantize", "-m", &model, "--bits", "8", "-o", &output][..],
        &["convert", "-m", &model, "--to", "mlx", "-o", &output],
        &["logits", "-m", &model, "--tokens", "1,".repeat(99).trim_end_matches(','), "-o", &output],
    ] {
        CLI.fails(arguments, &["cannot write", disk.0.path().to_str().unwrap(), "No space left"]);
        assert!(names(disk.0.path()).is_empty());
    }
    // The text has been printed by then.
    let run = CLI.run(&["generate", "-n", "3", "--state-out", &output, "hi"]);
    assert_eq!(run.code, Some(1));
    assert!(!run.out.is_empty() && run.err.contains("No space left"), "{run:?}");
    assert!(names(disk.0.path()).is_empty());
}

#[test]
fn readers_that_leave() {
    for json in [&[][..], &["--json"]] {
        let mut child = CLI.spawn(&[&ENDLESS, json, &["hi"]].concat(), Stdio::null());
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 8]).unwrap();
        drop(out);
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    }
    // More than a pipe holds.
    let mut child = CLI.spawn(&["completions", "zsh"], Stdio::null());
    drop(child.stdout.take());
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
}

#[test]
fn an_interrupted_text_is_saved_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state").display().to_string();
    for name in ["INT", "TERM"] {
        let arguments = [&ENDLESS[..], &["--json", "--state-out", &state, "hi"]].concat();
        let mut child = CLI.spawn(&arguments, Stdio::null());
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        for _ in 0..5 {
            out.read_line(&mut text).unwrap();
        }
        signal(&child, name);
        out.read_to_string(&mut text).unwrap();
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!((run.code, run.err.as_str()), (Some(130), ""), "{name}");
        let end = text.lines().last().unwrap();
        assert!(end.contains("\"end\"") && end.contains("cancelled"), "{end}");
        // The continuation is the same as without the interruption.
        let count = text.lines().filter(|line| line.contains("\"token\"")).count();
        let whole = CLI.ok(&[
            "generate",
            "--ignore-eos",
            "--seed",
            "1",
            "-n",
            &(count + 4).to_string(),
            "hi",
        ]);
        let rest = CLI.ok(&["generate", "--ignore-eos", "-n", "4", "--state-in", &state]);
        assert!(whole.ends_with(&rest), "{rest:?} is not the end of {whole:?}");
    }
}

#[test]
fn an_interrupted_text_without_a_state_ends_too() {
    let mut child = CLI.spawn(&[&ENDLESS[..], &["hi"]].concat(), Stdio::null());
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 8]).unwrap();
    signal(&child, "INT");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.err.as_str()), (Some(130), ""));
    assert!(rest.ends_with('\n'));
}

/// `nohup`, and a shell that starts it in the background, tell a command which signals to ignore.
#[test]
#[cfg(target_os = "linux")]
fn ignored_signals_stay_ignored() {
    let ignoring = |arguments: &[&str]| {
        let command = CLI.command(arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\""]).arg(command.get_program());
        shell.args(command.get_args()).envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = ignoring(&[&ENDLESS[..], &["hi"]].concat());
    let mut out = child.stdout.take().unwrap();
    // By now it has its handlers.
    out.read_exact(&mut [0; 8]).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 3, 3, "{status}");
    signal(&child, "TERM");
    out.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut child = ignoring(&["serve", "--bind", "127.0.0.1:0"]);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving ") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0);
    }
    for name in ["HUP", "INT", "TERM"] {
        signal(&child, name);
    }
    log.read_to_string(&mut line).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{line}");
}

/// Returns a large model, an output beside it, and the hidden directory of the output once its weight
/// file is not empty.
struct Writing {
    directory: TempDir,
    output: PathBuf,
}

impl Writing {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("model")).unwrap();
        large_model(&directory.path().join("model"));
        let output = directory.path().join("outputs/small");
        std::fs::create_dir(output.parent().unwrap()).unwrap();
        Self { directory, output }
    }

    fn arguments(&self) -> [String; 7] {
        let model = self.directory.path().join("model").display().to_string();
        let output = self.output.display().to_string();
        ["quantize".into(), "-m".into(), model, "--bits".into(), "4".into(), "-o".into(), output]
    }

    /// Interrupts quantizing in the middle.
    fn stop(&self, name: &str) -> Run {
        let arguments = self.arguments();
        let child = CLI.spawn(&arguments.each_ref().map(String::as_str), Stdio::null());
        wait_for("the first tensors", || {
            let left = self.left();
            let partial = left.iter().find(|name| name.ends_with(".partial"))?;
            let file = self.output.with_file_name(partial).join("model.safetensors");
            (std::fs::metadata(file).ok()?.len() > 1 << 16).then_some(())
        });
        signal(&child, name);
        Run::from(child.wait_with_output().unwrap())
    }

    fn left(&self) -> Vec<String> {
        names(self.output.parent().unwrap())
    }
}

#[test]
fn an_interrupted_quantization_leaves_nothing() {
    let writing = Writing::new();
    for name in ["INT", "TERM"] {
        let run = writing.stop(name);
        assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(130), "", ""), "{name}");
        assert!(writing.left().is_empty());
    }
}

#[test]
fn a_killed_quantization_leaves_no_output_and_the_next_one_succeeds() {
    let writing = Writing::new();
    assert_eq!(writing.stop("KILL").code, None);
    assert!(!Path::new(&writing.output).exists());
    CLI.ok(&writing.arguments().each_ref().map(String::as_str));
    assert!(CLI.ok(&["inspect", writing.output.to_str().unwrap()]).contains("4 bits"));
}
