//! Help, version, completions, and the exit status of wrong arguments.

#![allow(clippy::unwrap_used)]

use mlx_llamba_tests::command::{Cli, Run, names};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const COMMANDS: [&str; 19] = [
    "generate",
    "chat",
    "session",
    "serve",
    "quantize",
    "convert",
    "inspect",
    "logits",
    "bench",
    "perplexity",
    "compare",
    "eval",
    "distill",
    "train",
    "config",
    "doctor",
    "man",
    "models",
    "completions",
];

#[test]
fn every_help_has_an_example() {
    let all = CLI.ok(&["--help"]);
    for command in COMMANDS {
        assert!(all.contains(&format!("  {command} ")), "{command}");
        let help = CLI.ok(&[command, "--help"]);
        assert!(help.contains("Usage: mlx-llamba"), "{help}");
        let (_, examples) = help.split_once("Example").unwrap();
        assert!(examples.contains(&format!("mlx-llamba {command}")), "{help}");
        // A terminal of 80 columns, also where there is none.
        let wide = |line: &&str| line.chars().count() > 80;
        assert_eq!(help.lines().find(wide), None, "{command}");
    }
    assert!(all.contains("Exit status"));
}

#[test]
fn the_model_is_m_everywhere() {
    for command in COMMANDS.into_iter().chain(["synthesize", "session list"]) {
        let path: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = CLI.ok(&path);
        let without = ["session", "config", "man", "models", "completions"].contains(&command);
        assert_eq!(help.contains("  -m, --"), !without, "{help}");
        assert!(without || help.contains("model"), "{help}");
    }
}

#[test]
fn version_is_that_of_the_package() {
    assert_eq!(CLI.ok(&["--version"]), format!("mlx-llamba {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_for_every_shell_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = CLI.ok(&["completions", shell]);
        for word in COMMANDS.into_iter().chain(["mlx-llamba", "state-out"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn what_is_not_understood_exits_with_2() {
    for arguments in [
        &[][..],
        &["write"],
        &["generate", "--colour", "red", "hi"],
        &["generate", "hi", "--prompt-file", "x"],
        &["generate", "--device", "tpu", "hi"],
        &["quantize", "--bits", "four", "--output", "x"],
        &["quantize"],
        &["logits", "--output", "x"],
        &["logits", "--output", "x", "--tokens", "1", "--prompt", "x"],
        &["logits", "--output", "x", "--tokens", "1", "--step", "--split", "1"],
        &["convert", "--to", "cartesia", "--output", "x"],
        &["perplexity"],
        &["perplexity", "text", "--data", "x"],
        &["perplexity", "text", "--every", "2"],
        &["perplexity", "--data", "x", "--every", "0"],
        &["compare", "a", "b"],
        &["compare", "a", "-m", "b"],
        &["compare", "a", "-m", "b", "c", "d"],
        &["bench", "--plot", "plot.png"],
        &["compare", "a", "--data", "x"],
        &["eval"],
        &["eval", "--data", "x", "--each"],
        &["completions", "tcsh"],
        &["--log-level", "loud", "inspect"],
    ] {
        let run = CLI.run(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("man1");
    assert_eq!(CLI.ok(&["man", "--output", place.to_str().unwrap()]), "");
    let pages = names(&place);
    for command in COMMANDS.into_iter().chain(["session-list", "models-rm", "config-show"]) {
        assert!(pages.contains(&format!("mlx-llamba-{command}.1")), "{command}: {pages:?}");
    }
    for page in &pages {
        let text = std::fs::read_to_string(place.join(page)).unwrap();
        for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
            assert!(text.contains(section), "{page}: {section}");
        }
        // No line of text is a roff request by accident.
        let request = |line: &&str| line.starts_with(['.', '\'']);
        for line in text.lines().filter(request) {
            let known = [
                "TH", "SH", "SS", "IP", "TP", "PP", "RS", "RE", "nf", "fi", "br", "ie", "el", "ds",
            ];
            assert!(known.iter().any(|name| line[1..].starts_with(name)), "{page}: {line}");
        }
    }
    let page = std::fs::read_to_string(place.join("mlx-llamba-generate.1")).unwrap();
    assert_eq!(CLI.ok(&["man", "generate"]), page);
    for part in
        ["\\-\\-max\\-tokens", "[default: 256]", "mlx\\-llamba generate \"Once upon a time\"\n"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Settings do not influence it.
    let mut command = CLI.command(&["man", "generate"]);
    assert_eq!(Run::of(command.env("MLX_LLAMBA_MAX_TOKENS", "7")).out, page);
}
