//! The guide's commands, as they stand there.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use mlx_llamba_tests::command::{Cli, Run};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// The blocks of a chapter that are marked as `sh`.
fn commands(chapter: &str) -> String {
    let blocks = chapter.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

/// Runs a chapter's commands from a directory where the tree's lie beside what they write.
fn follow(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let chapter = std::fs::read_to_string(root.join("guide/src").join(name)).unwrap();
    let place = tempfile::tempdir().unwrap();
    for part in ["mlx-llamba", "mlx-llamba-mohawk"] {
        symlink(root.join(part), place.path().join(part)).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = commands(&chapter).replace(":8080", &format!(":{port}"));
    assert!(script.contains("mlx-llamba "), "{name} has no commands");
    let mut path = Path::new(CLI.0).parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut shell = Command::new("bash");
    // What was started in the background ends with the shell, whatever happens.
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{script}trap - EXIT\n");
    shell.args(["-euo", "pipefail", "-c", &script]).current_dir(place.path()).env("PATH", path);
    shell.env("MLX_LLAMBA_DATA", place.path().join("data")).stdin(Stdio::null());
    shell.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", "/proc/nowhere");
    let run = Run::of(&mut shell);
    assert_eq!(run.code, Some(0), "{name}: {run:?}");
}

#[test]
fn the_summary_lists_what_is_followed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guide/src");
    let summary = std::fs::read_to_string(root.join("SUMMARY.md")).unwrap();
    let links = summary.lines().filter_map(|line| line.split_once("](")?.1.strip_suffix(')'));
    let with_commands =
        |name: &&str| !commands(&std::fs::read_to_string(root.join(name)).unwrap()).is_empty();
    let all: Vec<_> = links.filter(with_commands).collect();
    assert_eq!(all, CHAPTERS);
}

const CHAPTERS: [&str; 6] =
    ["generate.md", "chat.md", "server.md", "evaluate.md", "distil.md", "trouble.md"];

#[test]
fn commands_of_every_chapter_succeed() {
    for name in CHAPTERS {
        follow(name);
    }
}
