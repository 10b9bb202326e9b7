//! `mlx-llamba models`: listing, downloading and removing models in the hub's cache.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use mlx_llamba_tests::command::{Cli, Run, names};
use mlx_llamba_tests::fake_hub::{Access, FakeHub, Fault};
use mlx_llamba_tests::fixtures;
use serde_json::Value;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const REPO: &str = FakeHub::REPO;

/// A hub with a small model and a tokenizer, and an empty cache.
struct Setup {
    hub: FakeHub,
    home: TempDir,
}

impl Setup {
    fn new() -> Self {
        let model = fixtures::path("m_mlx_4bit");
        let weights = std::fs::read(model.join("model.safetensors")).unwrap();
        let hub = FakeHub::start(&[
            ("model.safetensors", &weights, true),
            ("tokenizer.json", b"{\"version\": 1}", false),
        ]);
        Self { hub, home: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = CLI.command(&[&["models"], arguments].concat());
        Run::of(command.env("HF_ENDPOINT", &self.hub.endpoint).env("HF_HOME", self.home.path()))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert!(run.code == Some(0) && run.err.is_empty(), "{arguments:?}: {run:?}");
        run.out
    }

    fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["list", "--json"])).unwrap()
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--owner--model")
    }

    /// A second revision that shares the weights.
    fn pull_another(&self) -> String {
        let commit = "fedc".repeat(10);
        self.hub.contents().commit = commit.clone();
        self.hub.contents().files.get_mut("tokenizer.json").unwrap().bytes = b"{\"v\": 2}".to_vec();
        self.ok(&["pull", &format!("{REPO}@v1")]);
        commit
    }
}

/// Lists blobs, without their locks.
fn blobs(repo: &Path) -> Vec<String> {
    let mut blobs = names(&repo.join("blobs"));
    blobs.retain(|name| !name.ends_with(".lock"));
    blobs
}

#[test]
fn a_model_is_pulled_listed_and_removed() {
    let setup = Setup::new();
    assert_eq!(setup.list(), Vec::<Value>::new());
    let out = setup.ok(&["pull", REPO]);
    let path = setup.repo().join("snapshots").join(FakeHub::COMMIT);
    assert_eq!(out, format!("{}\n", path.display()));
    let listed = setup.list();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let row = &listed[0];
    let length = |name: &str| std::fs::metadata(path.join(name)).unwrap().len();
    assert_eq!(row["bytes"], length("model.safetensors") + length("tokenizer.json"));
    assert_eq!((&row["name"], &row["commit"]), (&REPO.into(), &FakeHub::COMMIT.into()));
    assert_eq!(row["references"], serde_json::json!(["main"]));
    assert_eq!((&row["complete"], &row["layout"]), (&true.into(), &"Cartesia MLX".into()));
    let inspect = ["inspect", path.to_str().unwrap(), "--json"];
    let summary: Value = serde_json::from_str(&CLI.ok(&inspect)).unwrap();
    for name in ["parameters", "bits_per_weight"] {
        assert_eq!(row[name], summary[name], "{name}");
    }
    let table = setup.ok(&["list"]);
    for part in [REPO, "main (01234567)", "Cartesia MLX + tokenizer", "MODEL"] {
        assert!(table.contains(part), "{table}");
    }
    setup.run(&["rm", REPO]).fails(&[REPO, "not a terminal", "--yes"]);
    assert_eq!(setup.list().len(), 1);
    assert!(setup.ok(&["rm", REPO, "--yes"]).contains("freed"));
    assert_eq!(names(&setup.cache()), Vec::<String>::new());
    setup.run(&["rm", REPO, "--yes"]).fails(&[REPO, "not in the cache", "models list"]);
}

#[test]
fn a_tokenizer_is_pulled_alone_or_with_a_model() {
    let setup = Setup::new();
    setup.ok(&["pull", "--tokenizer", REPO]);
    let row = &setup.list()[0];
    assert_eq!((&row["layout"], &row["has_model"]), (&"tokenizer".into(), &false.into()));
    assert_eq!(setup.hub.take_requests(|r| r.path.contains("safetensors")), []);
    let out = setup.ok(&["pull", REPO, "--tokenizer", REPO]);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert_eq!(setup.list()[0]["has_model"], true);
}

#[test]
fn what_was_interrupted_is_listed_goes_on_and_can_be_removed() {
    let setup = Setup::new();
    // It retries until Ctrl-C.
    setup.hub.break_file("model.safetensors", Fault::Busy { times: 99 });
    let away = {
        let mut command = CLI.command(&["models", "pull", REPO]);
        command.env("HF_ENDPOINT", &setup.hub.endpoint).env("HF_HOME", setup.home.path());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        mlx_llamba_tests::command::wait_for("a part", || {
            setup.repo().join("blobs").exists().then_some(())
        });
        mlx_llamba_tests::command::signal(&child, "INT");
        child.wait().unwrap().code()
    };
    assert_eq!(away, Some(130));
    let listed = setup.list();
    assert!(listed.len() == 1 && listed[0]["complete"] == false, "{listed:?}");
    assert!(setup.ok(&["list"]).contains("unfinished"));
    setup.hub.contents().files.get_mut("model.safetensors").unwrap().fault = None;
    setup.ok(&["pull", REPO]);
    assert_eq!(setup.list()[0]["complete"], true);
}

#[test]
fn one_revision_goes_and_what_the_other_needs_stays() {
    let setup = Setup::new();
    setup.ok(&["pull", REPO]);
    let before = blobs(&setup.repo());
    let newer = setup.pull_another();
    let error = setup.run(&["rm", REPO, "--yes"]).fails(&["several revisions", "--all"]);
    assert!(error.contains(&format!("{REPO}@main")) && error.contains(&format!("{REPO}@v1")));
    setup.run(&["rm", &format!("{REPO}@nothing"), "--yes"]).fails(&["nothing", "in the cache"]);
    let both = format!("{REPO}@main");
    setup.run(&["rm", &both, "--all", "--yes"]).is_refused(&["names a revision"]);
    // By the start of its commit. Only the old revision's tokenizer is removed.
    setup.ok(&["rm", &format!("{REPO}@{}", &FakeHub::COMMIT[..6]), "--yes"]);
    let left = setup.list();
    assert!(left.len() == 1 && left[0]["commit"] == newer.as_str(), "{left:?}");
    assert_eq!(left[0]["complete"], true);
    let after = blobs(&setup.repo());
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(after.iter().filter(|blob| before.contains(blob)).count(), 1);
    assert_eq!(names(&setup.repo().join("snapshots")), [newer]);
    assert_eq!(names(&setup.repo().join("refs")), ["v1"]);
    // It still works offline.
    let mut inspect = CLI.command(&["inspect", "--offline", &format!("{REPO}@v1")]);
    assert_eq!(Run::of(inspect.env("HF_HOME", setup.home.path())).code, Some(0));
    // With its last revision, the repository is removed.
    setup.ok(&["rm", &format!("{REPO}@v1"), "--yes"]);
    assert_eq!(names(&setup.cache()), Vec::<String>::new());
}

#[test]
fn beginnings_that_several_commits_share_are_refused() {
    let setup = Setup::new();
    setup.ok(&["pull", REPO]);
    let snapshots = setup.repo().join("snapshots");
    std::fs::create_dir(snapshots.join(format!("{}ff", &FakeHub::COMMIT[..6]))).unwrap();
    let name = format!("{REPO}@{}", &FakeHub::COMMIT[..6]);
    setup.run(&["rm", &name, "--yes"]).fails(&["only one", FakeHub::COMMIT]);
    assert_eq!(names(&snapshots).len(), 2);
    setup.ok(&["rm", REPO, "--all", "--yes"]);
    assert_eq!(names(&setup.cache()), Vec::<String>::new());
}

#[test]
fn links_out_of_the_cache_are_not_followed() {
    let setup = Setup::new();
    setup.ok(&["pull", REPO]);
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("precious");
    std::fs::write(&file, "text").unwrap();
    let snapshot = setup.repo().join("snapshots").join(FakeHub::COMMIT);
    std::os::unix::fs::symlink(&file, snapshot.join("a.safetensors.index.json")).unwrap();
    std::os::unix::fs::symlink(outside.path(), snapshot.join("directory")).unwrap();
    std::os::unix::fs::symlink(outside.path(), setup.repo().join("blobs/link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), setup.cache().join("models--other--link")).unwrap();
    // Blobs of another repository are not removed.
    let others = setup.cache().join("models--x--y/blobs");
    std::fs::create_dir_all(&others).unwrap();
    std::fs::write(others.join("blob"), "other").unwrap();
    std::os::unix::fs::symlink("../../../models--x--y/blobs/blob", snapshot.join("z")).unwrap();
    setup.pull_another();
    assert!(setup.list().iter().all(|row| row["name"] != "other/link"));
    setup.run(&["rm", "other/link", "--yes"]).fails(&["not in the cache"]);
    setup.ok(&["rm", &format!("{REPO}@main"), "--yes"]);
    assert!(!snapshot.exists());
    setup.ok(&["rm", REPO, "--yes"]);
    assert!(!setup.repo().exists());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(std::fs::read_to_string(others.join("blob")).unwrap(), "other");
}

#[test]
fn a_removal_that_was_killed_leaves_nothing_that_looks_whole() {
    let setup = Setup::new();
    setup.ok(&["pull", REPO]);
    let old = setup.repo().join("snapshots").join(FakeHub::COMMIT);
    setup.pull_another();
    // The state after a process was killed between renaming and removing blobs.
    std::fs::remove_file(setup.repo().join("refs/main")).unwrap();
    let aside = old.with_file_name(format!(".{}.removed", FakeHub::COMMIT));
    std::fs::rename(&old, &aside).unwrap();
    std::fs::create_dir_all(setup.cache().join(".models--a--b.removed/blobs")).unwrap();
    assert_eq!(setup.list().len(), 1);
    assert_eq!(blobs(&setup.repo()).len(), 3);
    // The next removal of anything completes it.
    setup.run(&["rm", "owner/absent", "--yes"]).fails(&["not in the cache"]);
    assert!(!aside.exists());
    assert_eq!(blobs(&setup.repo()).len(), 2);
    assert_eq!(names(&setup.cache()), ["models--owner--model"]);
    assert_eq!(setup.list()[0]["complete"], true);
}

#[test]
fn what_is_downloaded_now_is_not_removed() {
    let setup = Setup::new();
    setup.ok(&["pull", REPO]);
    let lock = names(&setup.repo().join("blobs")).into_iter().find(|n| n.ends_with(".lock"));
    let lock = std::fs::File::open(setup.repo().join("blobs").join(lock.unwrap())).unwrap();
    lock.lock().unwrap();
    setup.run(&["rm", REPO, "--yes"]).fails(&[REPO, "another process is downloading it"]);
    assert_eq!(setup.list()[0]["complete"], true);
    drop(lock);
    setup.ok(&["rm", REPO, "--yes"]);
}

#[test]
fn files_that_are_not_what_they_should_be_are_listed_all_the_same() {
    let setup = Setup::new();
    setup.hub.contents().files.get_mut("model.safetensors").unwrap().bytes = b"nothing".to_vec();
    setup.ok(&["pull", REPO]);
    let row = &setup.list()[0];
    assert_eq!(row["layout"], "unreadable");
    assert!(row["problem"].as_str().unwrap().contains("model.safetensors"), "{row}");
    // A missing file.
    let blob = setup.repo().join("snapshots").join(FakeHub::COMMIT).join("model.safetensors");
    std::fs::remove_file(std::fs::canonicalize(blob).unwrap()).unwrap();
    assert_eq!(setup.list()[0]["has_model"], false);
    // Other directories are left alone.
    std::fs::write(setup.cache().join("version.txt"), "1").unwrap();
    std::fs::create_dir(setup.cache().join("datasets--a--b")).unwrap();
    assert_eq!(setup.list().len(), 1);
}

#[test]
fn what_cannot_be_pulled_says_why() {
    let setup = Setup::new();
    setup.run(&["pull", "name"]).is_refused(&["name", "owner/name"]);
    setup.run(&["pull", "owner/absent"]).fails(&["owner/absent", "no such repository"]);
    setup.hub.contents().access = Access::Gated("good".to_owned());
    setup.run(&["pull", REPO]).fails(&[REPO, "gated", "HF_TOKEN"]);
    let run = setup.run(&["pull"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    let offline = {
        let mut command = CLI.command(&["models", "pull", REPO]);
        Run::of(command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", setup.home.path()))
    };
    offline.fails(&["not in the cache"]);
}
