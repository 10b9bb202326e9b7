//! Models by hub name: downloaded once, then from the cache; errors tell what to do.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use mlx_llamba_tests::command::{Cli, Run};
use mlx_llamba_tests::fake_hub::{Access, FakeHub};
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const REPO: &str = FakeHub::REPO;

/// A hub with the built-in model and its tokenizer, and an empty cache.
fn hub() -> (FakeHub, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    CLI.ok(&["convert", "--to", "mlx", "--output", model.to_str().unwrap()]);
    let read = |name: &str| std::fs::read(model.join(name)).unwrap();
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let files = names.map(|name| (name, read(name)));
    let files =
        files.each_ref().map(|(name, bytes)| (*name, &bytes[..], name.starts_with("model")));
    std::fs::remove_dir_all(&model).unwrap();
    (FakeHub::start(&files), directory)
}

fn run(hub: &FakeHub, cache: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = CLI.command(arguments);
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", cache);
    Run::of(command.envs(environment.iter().copied()))
}

/// Without the penalty that the built-in model has by default, but not its copy on the hub.
const GREEDY: [&str; 7] = ["generate", "-t", "0", "--repetition-penalty", "1", "-n", "8"];

#[test]
fn a_model_is_downloaded_once_and_then_works_offline() {
    let (hub, cache) = hub();
    let with = |environment: &[(&str, &str)], others: &[&str]| {
        run(
            &hub,
            cache.path(),
            environment,
            &[&GREEDY, &["--model", REPO][..], others, &["Once"]].concat(),
        )
    };
    let refused = with(&[], &["--offline"]).fails(&[REPO, "not in the cache", "--offline"]);
    assert!(refused.contains(cache.path().to_str().unwrap()), "{refused}");
    with(&[("HF_HUB_OFFLINE", "1")], &[]).fails(&["not in the cache"]);
    assert!(hub.take_requests(|_| true).is_empty());

    let expected = CLI.ok(&[&GREEDY[..], &["Once"]].concat());
    let good = Run { code: Some(0), out: expected, err: String::new() };
    assert_eq!(with(&[], &[]), good);
    let fetched = hub.take_requests(|r| r.method == "GET" && r.storage);
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    assert_eq!(with(&[], &[]), good);
    assert!(hub.take_requests(|r| r.storage).is_empty());
    for offline in [with(&[], &["--offline"]), with(&[("HF_HUB_OFFLINE", "1")], &[])] {
        assert_eq!(offline, good);
    }
    assert!(hub.take_requests(|_| true).is_empty());

    // When the hub is down, the cached copy is used with a warning.
    let away = with(&[("HF_ENDPOINT", "http://127.0.0.1:1")], &[]);
    assert_eq!((away.code, &away.out), (Some(0), &good.out));
    assert!(away.err.starts_with("warn: ") && away.err.contains("using the copy"), "{away:?}");
}

#[test]
fn other_commands_take_names_too() {
    let (hub, cache) = hub();
    let run = |arguments: &[&str]| run(&hub, cache.path(), &[], arguments);
    let inspected = run(&["inspect", REPO]);
    assert!(inspected.code == Some(0) && inspected.out.contains("13.1"), "{inspected:?}");
    let out = cache.path().join("converted");
    let arguments =
        ["convert", "-m", &format!("{REPO}@v1"), "--to", "mlx", "-o", out.to_str().unwrap()];
    let converted = run(&arguments);
    assert!(converted.code == Some(0) && out.join("tokenizer.json").is_file(), "{converted:?}");
    let tokenized = run(&["generate", "-n", "1", "--tokenizer", REPO, "Once"]);
    assert_eq!(tokenized.code, Some(0), "{tokenized:?}");
}

#[test]
fn gated_repositories_say_how_to_get_in() {
    let (hub, cache) = hub();
    hub.contents().access = Access::Gated("good".to_owned());
    let generate = [&GREEDY[..], &["--model", REPO, "Once"]].concat();
    let with = |token: &[(&str, &str)]| run(&hub, cache.path(), token, &generate);
    with(&[]).fails(&[REPO, "gated", "license", "HF_TOKEN"]);
    let refused = with(&[("HF_TOKEN", "bad-secret")]).fails(&[REPO, "no access"]);
    assert!(!refused.contains("bad-secret"));
    let let_in = with(&[("HF_TOKEN", "good")]);
    assert_eq!(let_in.code, Some(0), "{let_in:?}");
}

#[test]
fn what_is_not_there_and_what_cannot_be_reached() {
    let (hub, cache) = hub();
    let fails = |model: &str, parts: &[&str]| {
        run(&hub, cache.path(), &[], &["generate", "--model", model, "Once"]).fails(parts);
    };
    fails("owner/absent", &["owner/absent", "no such repository"]);
    fails(&format!("{REPO}@v9"), &[REPO, "no revision v9"]);
    fails("no-such-directory", &["no-such-directory", "no such file or directory"]);
    let away = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    let arguments = [&GREEDY[..], &["--model", REPO, "Once"]].concat();
    run(&hub, cache.path(), &away, &arguments).fails(&[REPO, "cannot be reached", "network"]);
}
