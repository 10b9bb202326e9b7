//! Exit statuses as documented in manual pages and `--help`, and no output to closed pipes.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use mlx_llamba_tests::command::{Cli, Run, signal, wait_for};
use mlx_llamba_tests::fake_hub::{FakeHub, Fault};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

#[test]
fn the_statuses_are_documented_where_people_look() {
    let help = CLI.ok(&["--help"]);
    let pages = [CLI.ok(&["man"]), CLI.ok(&["man", "generate"]), CLI.ok(&["man", "models", "rm"])];
    for (status, meaning) in
        [(0, "success"), (1, "failure"), (2, "wrong arguments"), (130, "interrupted")]
    {
        assert!(help.contains(&format!("{status:5}  {meaning}")), "{help}");
        for page in &pages {
            assert!(page.contains(&format!("\\fB{status}\\fR\n{meaning}")), "{page}");
        }
    }
    // The one command that a signal ends with success.
    for text in [help, CLI.ok(&["man", "serve"])] {
        assert!(text.contains("a clean shutdown of a server exits with 0"), "{text}");
    }
    assert!(CLI.ok(&["serve", "--help"]).contains("with status 0"));
}

#[test]
fn success_failure_and_impossible_arguments() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let nowhere = format!("{home}/nowhere");
    for (status, arguments) in [
        (0, &["config", "show"][..]),
        (0, &["man", "session", "list"]),
        (0, &["completions", "bash"]),
        (0, &["models", "list"]),
        (0, &["generate", "--help"]),
        (0, &["--version"]),
        (2, &["config", "show", "write"]),
        (2, &["man", "write"]),
        (2, &["models", "pull", "name"]),
        (1, &["models", "rm", "owner/absent", "--yes"]),
        (1, &["inspect", &nowhere]),
        (1, &["session", "inspect", &nowhere]),
        (2, &["generate"]),
        (1, &["man", "--output", "/proc/nowhere"]),
        (2, &["config"]),
        (2, &["config", "show", "--yaml"]),
        (2, &["models", "pull"]),
        (2, &["models", "rm"]),
        (2, &["man", "generate", "--output", "x"]),
        (2, &["doctor", "me"]),
        (2, &["generate", "--top-p", "2", "x"]),
        (2, &["generate", "--regex", "(", "x"]),
        (2, &["generate", "-n", "many", "x"]),
        (2, &["serve", "--max-rows", "0", "--bind", "127.0.0.1:0"]),
        (2, &["quantize", "--bits", "7", "--output", &nowhere]),
        (2, &["write"]),
    ] {
        let mut command = CLI.command(arguments);
        let run = Run::of(command.env("HF_HOME", home));
        assert_eq!(run.code, Some(status), "{arguments:?}: {run:?}");
        assert_eq!(run.err.is_empty(), status == 0, "{arguments:?}: {run:?}");
    }
}

/// Ctrl-C during a wait.
#[test]
fn interrupted() {
    for name in ["INT", "TERM"] {
        let mut command = CLI.command(&["generate", "--follow"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It handles signals once one did not end it.
        let status = format!("/proc/{}/status", child.id());
        wait_for("a handler", || {
            let status = std::fs::read_to_string(&status).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"))?;
            let number = if name == "INT" { 2 } else { 15 };
            (u64::from_str_radix(caught, 16).ok()? >> (number - 1) & 1 == 1).then_some(())
        });
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
    }
}

/// The first signal ends a command that waits for a hub that sends nothing more.
#[test]
fn a_stalled_download_is_interrupted() {
    for (name, arguments) in [
        ("TERM", &["models", "pull", FakeHub::REPO][..]),
        ("INT", &["generate", "-m", FakeHub::REPO, "x"]),
        ("TERM", &["generate", "-m", FakeHub::REPO, "x"]),
        ("TERM", &["chat", "-m", FakeHub::REPO, "x"]),
        ("INT", &["serve", "-m", FakeHub::REPO, "--bind", "127.0.0.1:0"]),
        ("TERM", &["quantize", "-m", FakeHub::REPO, "-o", "/proc/nowhere"]),
    ] {
        let hub = FakeHub::start(&[("model.safetensors", &[0; 9000], true)]);
        hub.break_file("model.safetensors", Fault::Stall { after: 10 });
        let home = tempfile::tempdir().unwrap();
        let mut command = CLI.command(arguments);
        command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home.path());
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the download", || {
            let asked = hub.contents().requests.iter().any(|asked| asked.storage);
            asked.then_some(())
        });
        signal(&child, name);
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(130), "{name} {arguments:?}");
    }
}

/// The first signal ends a command that writes into a pipe that nobody reads.
#[test]
#[cfg(target_os = "linux")]
fn a_full_pipe_is_interrupted() {
    let endless = ["generate", "-n", "1000000", "--ignore-eos", "--json", "--logprobs", "20", "x"];
    let mut child = CLI.spawn(&endless, Stdio::null());
    wait_for("a full pipe", || {
        let wait = std::fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap();
        wait.contains("pipe_write").then_some(())
    });
    signal(&child, "TERM");
    let status = wait_for("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

/// A reader closes the pipe early, for every command with long output.
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["man"],
        &["completions", "bash"],
        &["config", "show", "serve"],
        &["config", "path"],
        &["doctor"],
        &["models", "list"],
        &["inspect", "--tensors"],
        &["generate", "-n", "5", "hi"],
        &["bench", "-p", "8", "-n", "1", "-r", "1"],
        &["distill", "--print-recipe", "tiny"],
    ] {
        let mut command = CLI.command(arguments);
        command.env("HF_HOME", home.path()).env("MLX_LLAMBA_DATA", home.path());
        // A pipe whose reading end is closed before the command writes.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(command.stdout(writer));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// All commands draw their bars with the same code. A hub that breaks off makes this one take long
/// enough for a bar on any machine.
#[test]
fn progress_is_for_terminals_only() {
    let pull = |look: &dyn Fn(&Command) -> Option<String>| {
        let bytes: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
        let hub = FakeHub::start(&[("model.safetensors", &bytes, true)]);
        hub.break_file("model.safetensors", Fault::Cut { after: 300_000, times: 5 });
        let home = tempfile::tempdir().unwrap();
        let mut command = CLI.command(&["models", "pull", FakeHub::REPO]);
        command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home.path());
        look(&command)
    };
    let piped = pull(&|command| {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args()).envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let run = Run::of(again.stdin(Stdio::null()));
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
        Some(run.out)
    });
    assert_eq!(piped.unwrap().lines().count(), 1);
    if let Some(seen) = pull(&on_terminal) {
        assert!(seen.contains("model.safetensors") && seen.contains(" eta "), "{seen:?}");
    }
}

/// Returns the output of a command in a terminal, or `None` without a program that provides one.
fn on_terminal(command: &Command) -> Option<String> {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(quoted).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    match script.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        output => {
            eprintln!("not tried on a terminal: {output:?}");
            None
        }
    }
}
