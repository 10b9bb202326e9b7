//! Runs the guide's commands.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mlx_llamba_tests::command::{Cli, Run};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// Returns the blocks of a chapter marked as `sh`. Those marked as `sh,no_run` need the hub, build
/// the project, or do not end.
fn commands(chapter: &str) -> String {
    let blocks = chapter.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

/// Runs a chapter's commands in a directory with links to the project's data.
fn follow(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let chapter = std::fs::read_to_string(guide().join(name)).unwrap();
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
    // Background processes end with the shell in any case.
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}trap - EXIT\n");
    shell.args(["-euo", "pipefail", "-c", &script]).current_dir(place.path()).env("PATH", path);
    shell.env("MLX_LLAMBA_DATA", place.path().join("data")).stdin(Stdio::null());
    // Independent of the user who runs the tests.
    shell.env("HOME", place.path()).env_remove("XDG_CONFIG_HOME").env_remove("MLX_LLAMBA_CONFIG");
    shell.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", place.path().join("hub"));
    let run = Run::of(&mut shell);
    assert_eq!(run.code, Some(0), "{name}: {run:?}");
}

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guide/src")
}

/// Returns the targets of links and pictures in a Markdown text.
fn links(text: &str) -> Vec<&str> {
    let code = text.split("```").skip(1).step_by(2);
    let all = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let code: Vec<_> = code.map(|block| block.as_bytes().as_ptr_range()).collect();
    all.filter(|link| !code.iter().any(|block| block.contains(&link.as_ptr()))).collect()
}

#[test]
fn the_summary_lists_every_chapter() {
    let summary = std::fs::read_to_string(guide().join("SUMMARY.md")).unwrap();
    let mut listed = links(&summary);
    let with_commands =
        |name: &&str| !commands(&std::fs::read_to_string(guide().join(name)).unwrap()).is_empty();
    let followed: Vec<_> = listed.iter().copied().filter(with_commands).collect();
    assert_eq!(followed, CHAPTERS);
    listed.push("SUMMARY.md");
    listed.sort_unstable();
    assert_eq!(listed, files(".", "md"));
}

/// Lists files of a directory of the guide by extension, sorted.
fn files(directory: &str, extension: &str) -> Vec<String> {
    let mut names = mlx_llamba_tests::command::names(&guide().join(directory));
    names.retain(|name| Path::new(name).extension().is_some_and(|e| e == extension));
    names
}

/// Chapters refer only to parts of the book, and every picture is used.
#[test]
fn links_lead_somewhere() {
    let mut pictures = BTreeSet::new();
    for chapter in files(".", "md") {
        let text = std::fs::read_to_string(guide().join(&chapter)).unwrap();
        for link in links(&text) {
            assert!(!link.starts_with(['/', '.']), "{chapter}: {link} is no part of the book");
            if !link.starts_with("https://") {
                assert!(guide().join(link).is_file(), "{chapter}: {link} is not there");
            }
            pictures.extend(link.strip_prefix("images/").map(ToOwned::to_owned));
        }
    }
    assert_eq!(pictures.into_iter().collect::<Vec<_>>(), files("images", "svg"));
}

/// Pictures are self-contained.
#[test]
fn pictures_need_nothing_else() {
    for name in files("images", "svg") {
        let picture = std::fs::read_to_string(guide().join("images").join(&name)).unwrap();
        let own = picture.replace("http://www.w3.org/2000/svg", "");
        for other in ["http:", "https:", "@import", "@font-face", "href=", "<script"] {
            assert!(!own.contains(other), "{name} has {other}");
        }
        assert!(picture.len() < 200 << 10, "{name} has {} bytes", picture.len());
    }
}

const CHAPTERS: [&str; 9] = [
    "install.md",
    "generate.md",
    "chat.md",
    "server.md",
    "models.md",
    "evaluate.md",
    "distil.md",
    "settings.md",
    "trouble.md",
];

#[test]
fn commands_of_every_chapter_succeed() {
    for name in CHAPTERS {
        follow(name);
    }
}
