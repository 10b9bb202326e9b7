//! `train` and `distill`: runs that finish, runs that are stopped, and runs that cannot start.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mlx_llamba_tests::command::{Cli, Run, names, signal, wait_for};
use mlx_llamba_tests::fixtures;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// A directory with text, and a teacher briefly trained on it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let people = ["Anna", "Ben", "Cleo", "Dora", "Emil", "Finn", "Gus", "Hana"];
        let line = |i: usize, name: &str| {
            let text: String =
                (0..6).map(|j| format!("{name} had {} red apples. ", 10 * i + j)).collect();
            serde_json::json!({ "text": text }).to_string() + "\n"
        };
        let lines: String = people.iter().enumerate().map(|(i, name)| line(i, name)).collect();
        std::fs::write(place.path("text.jsonl"), lines).unwrap();
        CLI.ok(&place.train("teacher").iter().map(String::as_str).collect::<Vec<_>>());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn train(&self, output: &str) -> Vec<String> {
        let tokenizer =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba/assets/llamba-stories");
        let mut all: Vec<String> =
            ["train", "--arch", "llama", "--data"].map(String::from).to_vec();
        all.extend([
            self.name("text.jsonl"),
            "--tokenizer".into(),
            tokenizer.display().to_string(),
        ]);
        all.extend(["--output".into(), self.name(output)]);
        let sizes = [
            "hidden_size=8",
            "num_hidden_layers=2",
            "num_attention_heads=2",
            "num_key_value_heads=1",
            "head_dim=4",
            "intermediate_size=12",
        ];
        all.extend(sizes.iter().flat_map(|size| ["--set".into(), format!("model.{size}")]));
        let rest = "--batch 2 --length 16 --tokens 320 --set data.heldout_every=4";
        all.extend(rest.split(' ').map(String::from));
        all
    }

    fn distill(&self, output: &str, more: &[&str]) -> Vec<String> {
        let fixed = "--config tiny --batch 2 --length 16 --set data.heldout_every=4 \
                     --set evaluation.every=5 --set checkpoint.every=1";
        let mut all: Vec<String> = ["distill", "--teacher"].map(String::from).to_vec();
        all.extend([self.name("teacher"), "--data".into(), self.name("text.jsonl")]);
        all.extend(["--output".into(), self.name(output)]);
        all.extend(fixed.split_whitespace().chain(more.iter().copied()).map(String::from));
        if !more.contains(&"--tokens") {
            all.extend(["--tokens", "640"].map(String::from));
        }
        all
    }

    fn model(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.path(output).join("model.safetensors")).unwrap()
    }

    /// Returns the log's lines about steps.
    fn steps(&self, output: &str) -> Vec<u64> {
        let text = std::fs::read_to_string(self.path(output).join("log.jsonl")).unwrap();
        let records =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records.filter(|r| r["loss"].is_number()).map(|r| r["step"].as_u64().unwrap()).collect()
    }
}

fn run(arguments: &[String]) -> Run {
    CLI.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn ok(arguments: &[String]) -> String {
    CLI.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn fails(arguments: &[String], parts: &[&str]) -> String {
    CLI.fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), parts)
}

#[test]
fn a_teacher_becomes_a_student() {
    let place = Place::new();
    let out = ok(&place.distill("student", &[]));
    for part in [
        "a Llamba of",
        "orientation, step",
        "alignment, step",
        "distillation, step",
        "KL",
        "student in",
    ] {
        assert!(out.contains(part), "{part:?} is missing: {out}");
    }
    assert_eq!(place.steps("student"), (1..=20).collect::<Vec<u64>>());
    let files = names(&place.path("student"));
    for file in [
        "config.json",
        "generation_config.json",
        "log.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "training.svg",
    ] {
        assert!(files.contains(&file.to_owned()), "{file}: {files:?}");
    }
    assert!(!files.iter().any(|file| file.contains("partial") || file == ".model"), "{files:?}");
    let student = place.name("student");
    CLI.ok(&["generate", "-m", &student, "-n", "3", "Anna had"]);
    assert!(CLI.ok(&["inspect", &student]).contains("2"));
    // An existing output is refused before the text is read.
    fails(&place.distill("student", &[]), &["exists already"]);
    // A complete run is not repeated.
    let before = place.model("student");
    ok(&place.distill("student", &["--resume"]));
    assert_eq!(place.model("student"), before);
    // A run that cannot begin leaves the old model alone; other files stay in any case.
    std::fs::write(place.path("student/notes.txt"), "mine").unwrap();
    let other = ["--overwrite", "--seed", "9"];
    let long = ["--set", "alignment.length=90000"];
    fails(&place.distill("student", &[&other[..], &long].concat()), &["90000"]);
    assert_eq!(place.model("student"), before);
    ok(&place.distill("student", &other));
    assert_ne!(place.model("student"), before);
    assert_eq!(place.steps("student"), (1..=20).collect::<Vec<u64>>());
    assert!(place.path("student/notes.txt").exists());
}

#[test]
fn stages_and_totals() {
    let place = Place::new();
    let shares = ["--set", "alignment.tokens=200", "--set", "distillation.tokens=400"];
    ok(&place.distill("two", &[&["--stage", "2+3"][..], &shares].concat()));
    // 640 tokens in the proportions of the recipe, in steps of 32.
    let log = std::fs::read_to_string(place.path("two/log.jsonl")).unwrap();
    let count = |stage: &str| {
        log.lines()
            .filter(|line| line.contains(&format!("{stage:?}")) && line.contains("\"loss\""))
            .count()
    };
    assert_eq!(["orientation", "alignment", "distillation"].map(count), [0, 7, 14]);
    // Running the stages one by one equals running them all.
    let shares = "--set orientation.tokens=160 --set alignment.tokens=480 \
                  --set student.copy_qkvo=false --stage";
    let with = |more: &[&'static str]| -> Vec<&str> {
        shares.split_whitespace().chain(more.iter().copied()).collect()
    };
    ok(&place.distill("one", &with(&["1+2"])));
    ok(&place.distill("first", &with(&["1", "--tokens", "160"])));
    let student = place.name("first");
    let rest = with(&["2", "--tokens", "480", "--student"]);
    ok(&place.distill("second", &[rest.as_slice(), &[student.as_str()]].concat()));
    assert_eq!(place.model("second"), place.model("one"));
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bits() {
    let place = Place::new();
    ok(&place.distill("whole", &[]));
    let (fresh, resumed) = (place.distill("killed", &[]), place.distill("killed", &["--resume"]));
    let mut random = 1u64;
    let mut kills = 0;
    for attempt in 0.. {
        let begun = place.path("killed").exists()
            && names(&place.path("killed")).iter().any(|name| name.starts_with("checkpoint-"));
        let arguments = if begun { &resumed } else { &fresh };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = CLI.spawn(&arguments, Stdio::null());
        if attempt < 12 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            std::thread::sleep(Duration::from_millis(40 + (random >> 33) % 400));
            if child.try_wait().unwrap().is_none() {
                signal(&child, "KILL");
                kills += 1;
            }
        }
        let run = Run::from(child.wait_with_output().unwrap());
        match run.code {
            Some(code) => {
                assert_eq!((code, run.err.as_str()), (0, ""), "{run:?}");
                break;
            }
            None => assert_eq!(run.err, ""),
        }
    }
    assert!(kills > 0);
    assert_eq!(place.model("killed"), place.model("whole"));
    assert_eq!(place.steps("killed"), place.steps("whole"));
    assert!(!names(&place.path("killed")).iter().any(|name| name.ends_with(".partial")));
}

#[test]
fn killed_while_it_writes_a_checkpoint_it_ends_with_the_same_bits() {
    let place = Place::new();
    ok(&place.distill("whole", &[]));
    let torn = || {
        let names = std::fs::read_dir(place.path("killed")).into_iter().flatten().flatten();
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with(".checkpoint-") && !name.contains("-00000000."))
    };
    let mut caught = 0;
    for attempt in 0..5 {
        let checkpoints = place.path("killed").exists()
            && names(&place.path("killed")).iter().any(|name| name.starts_with("checkpoint-"));
        let more: &[&str] = if checkpoints { &["--resume"] } else { &[] };
        let arguments = place.distill("killed", more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = CLI.spawn(&arguments, Stdio::null());
        // Not at the first checkpoint: then it would never make progress.
        let mut written = 0;
        while child.try_wait().unwrap().is_none() && attempt < 4 {
            if torn() {
                written += 1;
                if written > 1 {
                    child.kill().unwrap();
                    break;
                }
                while torn() && child.try_wait().unwrap().is_none() {}
            }
        }
        let run = Run::from(child.wait_with_output().unwrap());
        match run.code {
            Some(code) => {
                assert_eq!((code, run.err.as_str()), (0, ""), "{run:?}");
                break;
            }
            None => caught += usize::from(torn()),
        }
    }
    assert!(caught > 0, "never within a checkpoint");
    assert_eq!(place.model("killed"), place.model("whole"));
    assert_eq!(place.steps("killed"), place.steps("whole"));
    assert!(!names(&place.path("killed")).iter().any(|name| name.ends_with(".partial")));
}

#[test]
fn interrupted_it_says_how_to_go_on() {
    let place = Place::new();
    let never = ["--tokens", "3200", "--set", "checkpoint.every=0"];
    ok(&place.distill("whole", &never));
    for (name, first) in [("INT", true), ("TERM", false)] {
        let mut arguments = place.distill("stopped", &never);
        if !first {
            arguments.push("--resume".into());
        }
        let log = place.path("stopped/log.jsonl");
        let before = std::fs::read(&log).map_or(0, |text| text.len());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let child = CLI.spawn(&arguments, Stdio::null());
        wait_for("a step", || (std::fs::read(&log).ok()?.len() > before + 300).then_some(()));
        signal(&child, name);
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(130), "{run:?}");
        assert!(
            run.err.starts_with("stopped after step") && run.err.contains("--resume"),
            "{run:?}"
        );
        assert!(!place.path("stopped/config.json").exists());
        let step = place.steps("stopped").last().copied().unwrap();
        assert!(run.err.contains(&format!("step {step};")), "{step}: {run:?}");
    }
    ok(&place.distill("stopped", &[&never[..], &["--resume"]].concat()));
    assert_eq!(place.model("stopped"), place.model("whole"));
}

#[test]
fn another_run_is_not_taken_up() {
    let place = Place::new();
    fails(&place.distill("none", &["--resume"]), &["no run to resume"]);
    assert!(!place.path("none").exists());
    ok(&place.distill("run", &["--stage", "1"]));
    std::fs::remove_file(place.path("run/config.json")).unwrap();
    std::fs::remove_file(place.path("run/model.safetensors")).unwrap();
    fails(&place.distill("run", &["--stage", "1"]), &["holds a run already"]);
    let other = ["--stage", "1", "--resume", "--set", "orientation.lr=0.5", "--seed", "9"];
    let error = fails(
        &place.distill("run", &other),
        &["orientation.lr was ", ", is 0.5; seed was 1, is 9"],
    );
    assert!(!error.contains("batch"), "{error}");
    let text = std::fs::read_to_string(place.path("text.jsonl")).unwrap();
    std::fs::write(place.path("text.jsonl"), text.replace("Anna", "Anne")).unwrap();
    fails(&place.distill("run", &["--stage", "1", "--resume"]), &["data was"]);
    std::fs::write(place.path("text.jsonl"), text).unwrap();
    // Options that do not change the result may change.
    ok(&place.distill("run", &["--stage", "1", "--resume", "--set", "evaluation.every=2"]));
}

#[test]
fn runs_that_go_wrong_keep_their_checkpoint() {
    let place = Place::new();
    let run = run(&place.distill("run", &["--stage", "3", "--set", "distillation.lr=1e30"]));
    assert_eq!(run.code, Some(1), "{run:?}");
    for part in
        ["error: the ", "stage distillation, step ", "part 0", "the last checkpoint is good"]
    {
        assert!(run.err.contains(part), "{part:?} is missing: {run:?}");
    }
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    let files = names(&place.path("run"));
    assert!(files.iter().any(|name| name.starts_with("checkpoint-")), "{files:?}");
    assert!(!files.contains(&"model.safetensors".to_owned()), "{files:?}");
}

#[test]
fn what_cannot_begin() {
    let place = Place::new();
    let replaced = |option: &str, value: &str| {
        let mut all = place.distill("never", &[]);
        let at = all.iter().position(|argument| argument == option).unwrap();
        all[at + 1] = value.to_owned();
        all
    };
    let llamba = fixtures::path("a_base").display().to_string();
    fails(&replaced("--teacher", &llamba), &["a_base", "architecture llamba"]);
    fails(&replaced("--teacher", "/nowhere"), &["/nowhere"]);
    fails(&replaced("--data", "/nowhere"), &["cannot read /nowhere"]);
    fails(&replaced("--config", "huge"), &["no recipe is called \"huge\"", "tiny"]);
    fails(&replaced("--config", "/nowhere.toml"), &["cannot read /nowhere.toml"]);
    fails(&replaced("--length", "600"), &["orientation", "600", "512 tokens"]);
    fails(
        &replaced("--length", "500"),
        &["the training text has", "held-out", "one window needs 501"],
    );
    std::fs::write(place.path("empty.jsonl"), "\n").unwrap();
    fails(&replaced("--data", &place.name("empty.jsonl")), &["there is no text"]);
    std::fs::write(place.path("odd.jsonl"), "{\"story\": \"x\"}\n").unwrap();
    fails(
        &replaced("--data", &place.name("odd.jsonl")),
        &["odd.jsonl, line 1", "no field \"text\""],
    );
    fails(
        &place.distill("never", &["--set", "alignment.learn=1"]),
        &["recipe tiny", "alignment", "learn"],
    );
    fails(&place.distill("never", &["--state", "3", "--copy-qkvo", "true"]), &["(h, g, p, n)"]);
    fails(&place.distill("never", &["--tokenizer", "/nowhere"]), &["/nowhere"]);
    assert_eq!(run(&place.distill("never", &["--stage", "3+1"])).code, Some(2));
    let mut other = place.train("never");
    other.extend(["--set".into(), "model.vocab_size=9000".into()]);
    fails(&other, &["9000", "another model"]);
    assert!(!place.path("never/config.json").exists());
}

#[test]
fn recipes_are_printed() {
    let text = CLI.ok(&["distill", "--print-recipe", "tiny"]);
    assert!(text.contains("[orientation]") && text.contains("lr = "));
    CLI.fails(&["distill", "--print-recipe", "x"], &["no recipe is called \"x\"", "smollm2"]);
    assert_eq!(CLI.run(&["distill"]).code, Some(2));
}

/// A file system with room for `size`.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Returns `None` without permission to mount.
    fn mount(size: &str) -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.size(&format!("size={size}")).then_some(disk)
    }

    fn size(&self, options: &str) -> bool {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0.path());
        mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_disks() {
    let place = Place::new();
    // Parameters take 137 kB, with moments 400 kB: the first checkpoint has none.
    let Some(disk) = SmallDisk::mount("420k") else {
        eprintln!("not tried: mounting a small tmpfs needs root");
        return;
    };
    let output = disk.0.path().join("run").display().to_string();
    let cache = place.name("tokens");
    let arguments = |resume: bool| {
        let mut all = place.distill("run", &["--stage", "3", "--cache", &cache]);
        let at = all.iter().position(|argument| argument == "--output").unwrap();
        all[at + 1].clone_from(&output);
        all.extend(resume.then(|| "--resume".to_owned()));
        all
    };
    let run = run(&arguments(false));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains("cannot write") && run.err.contains("checkpoint-00000001"), "{run:?}");
    assert!(run.err.contains("No space left") && run.err.lines().count() == 1, "{run:?}");
    let mut left = names(Path::new(&output));
    left.retain(|name| name.contains("checkpoint"));
    assert_eq!(left, ["checkpoint-00000000"]);
    // It continues when there is room.
    assert!(disk.size("remount,size=16m"));
    ok(&arguments(true));
    ok(&place.distill("whole", &["--stage", "3"]));
    let model = std::fs::read(Path::new(&output).join("model.safetensors")).unwrap();
    assert_eq!(model, place.model("whole"));
}
