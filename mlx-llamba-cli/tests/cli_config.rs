//! Defaults from a file and from the environment: their precedence and their errors.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

use mlx_llamba_tests::command::{Cli, Run};
use mlx_llamba_tests::fixtures;
use serde_json::Value;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// A configuration file.
struct Config {
    directory: TempDir,
    file: PathBuf,
}

impl Config {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        Self { directory, file }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = CLI.command(arguments);
        command.env("MLX_LLAMBA_CONFIG", &self.file);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert!(run.code == Some(0) && run.err.is_empty(), "{arguments:?}: {run:?}");
        run.out
    }
}

/// Counts the tokens in the output of `generate --json`.
fn tokens(text: &str) -> usize {
    text.lines().filter(|line| line.contains("\"type\":\"token\"")).count()
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_what_is_built_in() {
    let config = Config::new(
        "temperature = 0\nmax-tokens = 9\n[generate]\njson = true\nmax_tokens = 7\nstop = ['QQ']\n",
    );
    let generate = ["generate", "--ignore-eos", "Once upon a time"];
    assert_eq!(tokens(&config.ok(&generate)), 7);
    let with = |variables: &[(&str, &str)], others: &[&str]| {
        let mut command = config.command(&[&generate[..], others].concat());
        Run::of(command.envs(variables.iter().copied()))
    };
    let common = ("MLX_LLAMBA_MAX_TOKENS", "5");
    assert_eq!(tokens(&with(&[common], &[]).out), 5);
    let own = ("MLX_LLAMBA_GENERATE_MAX_TOKENS", "4");
    assert_eq!(tokens(&with(&[common, own], &[]).out), 4);
    assert_eq!(tokens(&with(&[common, own], &["-n", "3"]).out), 3);
    assert_eq!(tokens(&with(&[("MLX_LLAMBA_MAX_TOKENS", "")], &[]).out), 7);
    // The command line turns off a flag of the file; sampling in the file equals the option.
    let text = CLI.ok(&["generate", "--ignore-eos", "-t", "0", "-n", "7", "Once upon a time"]);
    assert_eq!(config.ok(&[&generate[..], &["--json=false"]].concat()), text);
    assert_eq!(with(&[("MLX_LLAMBA_GENERATE_JSON", "no")], &[]).out, text);
    assert_ne!(
        config.ok(&[&generate[..], &["--json=false", "-t", "3", "--seed", "1"]].concat()),
        text
    );
}

#[test]
fn help_shows_the_value_in_force() {
    let config = Config::new("model = 'my/model'\n[serve]\nmax-rows = 3\n");
    let help = config.ok(&["serve", "--help"]);
    for part in ["[default: my/model]", "[default: 3]"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!help.contains("story-telling"), "{help}");
    let mut secret = config.command(&["serve", "--help"]);
    let secret = Run::of(secret.env("MLX_LLAMBA_SERVE_API_KEY", "hush-hush"));
    assert!(secret.code == Some(0) && !secret.out.contains("hush-hush"), "{secret:?}");
    let mut shown = config.command(&["config", "show"]);
    let shown = Run::of(shown.env("MLX_LLAMBA_SERVE_API_KEY", "hush-hush"));
    assert!(shown.out.contains("api-key = (hidden)"), "{shown:?}");
    assert!(!shown.out.contains("hush-hush"), "{shown:?}");
}

#[test]
fn a_default_gives_way_to_what_excludes_it() {
    let config = Config::new("model = '/nowhere/at/all'\ntokenizer = '/nowhere/either'\n");
    config.run(&["inspect"]).fails(&["/nowhere/at/all"]);
    let model = fixtures::path("a_base").display().to_string();
    assert_eq!(config.ok(&["inspect", &model]), CLI.ok(&["inspect", &model]));
    let bench = ["bench", "--shape", "custom", "--layers", "1", "--width", "64", "--vocab", "99"];
    let bench = [&bench[..], &["-p", "0", "-n", "1", "-r", "1"]].concat();
    assert!(config.ok(&bench).contains("random custom"));
    let format = Config::new("[bench]\njson = true\n");
    assert!(format.ok(&bench).starts_with('{'));
    let csv = format.ok(&[&bench[..], &["--format", "csv"]].concat());
    assert!(csv.starts_with("test,"), "{csv}");
}

/// A default satisfies an option that requires it, as if it were typed.
#[test]
fn a_default_is_there_for_what_needs_it() {
    let generate = ["generate", "-t", "0", "-n", "2", "Once upon a time"];
    let json = Config::new("[generate]\njson = true\n");
    let typed = [&generate[..], &["--logprobs", "2"]].concat();
    let ids = |text: &str| -> Vec<Value> {
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["type"] == "token").collect()
    };
    let expected = ids(&CLI.ok(&[&typed[..], &["--json"]].concat()));
    assert!(expected.len() == 2 && expected[0]["logprobs"].is_object(), "{expected:?}");
    assert_eq!(ids(&json.ok(&typed)), expected);
    // The same after --verbose=false, and with an option of all commands.
    let taken_back = Config::new("verbose = true\n[generate]\njson = true\n");
    let first = ["--log-level", "error", "generate", "--verbose=false", "--logprobs", "2"];
    assert_eq!(ids(&taken_back.ok(&[&first[..], &generate[1..]].concat())), expected);

    let sizes = ["bench", "--layers", "1", "--width", "64", "--vocab", "99", "-p", "0", "-n", "1"];
    let shape = Config::new("[bench]\nshape = 'custom'\nbits = 8\n");
    let bench = shape.ok(&[&sizes[..], &["-r", "1", "--json"]].concat());
    assert!(bench.contains("random custom") && bench.contains("8 bits"), "{bench}");

    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.txt");
    std::fs::write(&text, "Once upon a time there was a cat.\n").unwrap();
    let [text, directory] = [&text, directory.path()].map(|path| path.to_str().unwrap());
    let data = Config::new(&format!("[perplexity]\ndata = '{directory}'\n"));
    assert!(data.ok(&["perplexity"]).contains("in 1 text"));
    let typed = CLI.ok(&["perplexity", text]);
    assert_eq!(data.ok(&["perplexity", text]).lines().next(), typed.lines().next());
    let window = Config::new("[perplexity]\nattention-window = 8\n");
    window.run(&["perplexity", "--sinks", "2", text]).fails(&["no attention to limit"]);
    // A missing option is still required.
    let run = json.run(&["perplexity", "--sinks", "2", text]);
    assert!(run.code == Some(2) && run.err.contains("--attention-window"), "{run:?}");
}

/// A default from a group of exclusive options yields to another option of the group.
#[test]
fn a_default_is_one_of_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let prompt = Config::new("[logits]\nprompt = 'Once upon a time'\n");
    let logits = |config: &Config, arguments: &[&str]| {
        let output = path("out.safetensors");
        config.ok(&[&["logits", "--output", &output], arguments].concat());
        std::fs::read(&output).unwrap()
    };
    let plain = Config::new("");
    let by_tokens = logits(&plain, &["--tokens", "1,2,3"]);
    assert!(logits(&prompt, &["--tokens", "1,2,3"]) == by_tokens);
    let by_prompt = logits(&plain, &["--prompt", "Once upon a time"]);
    assert!(logits(&prompt, &[]) == by_prompt && by_prompt != by_tokens);
}

/// A default without an option that it requires is ignored, and of two conflicting ones one counts.
#[test]
fn a_default_that_makes_no_sense_alone_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("questions.jsonl");
    std::fs::write(&data, "{\"context\":\"The\",\"choices\":[\"cat\",\"dog\"],\"answer\":0}\n")
        .unwrap();
    let eval = ["eval", "--data", data.to_str().unwrap()];
    let each = Config::new("[eval]\neach = true\n");
    assert_eq!(each.ok(&eval), CLI.ok(&eval));
    let json = [&eval[..], &["--json"]].concat();
    assert_eq!(each.ok(&json), CLI.ok(&[&json[..], &["--each"]].concat()));
    let both = Config::new("[eval]\neach = true\njson = true\n");
    assert_eq!(both.ok(&eval), each.ok(&json));

    let bench = ["bench", "--shape", "custom", "--layers", "1", "--width", "64", "--vocab", "99"];
    let bench = [&bench[..], &["-p", "0", "-n", "1", "-r", "1"]].concat();
    let config = Config::new("[bench]\njson = true\n");
    let mut command = config.command(&bench);
    let run = Run::of(command.env("MLX_LLAMBA_BENCH_FORMAT", "csv"));
    assert!(run.code == Some(0) && run.out.starts_with("test,"), "{run:?}");
}

#[test]
fn a_tokenizer_of_the_file_is_for_models_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, bare) = (directory.path().join("whole"), directory.path().join("bare"));
    let [whole, bare] = [&whole, &bare].map(|path| path.to_str().unwrap());
    for output in [whole, bare] {
        CLI.ok(&["convert", "--to", "mlx", "--output", output]);
    }
    std::fs::remove_file(format!("{bare}/tokenizer.json")).unwrap();
    let generate = ["generate", "-t", "0", "-n", "4", "--model"];
    let text = CLI.ok(&["generate", "-t", "0", "-n", "4", "Once"]);
    let config = Config::new(&format!("tokenizer = '{whole}'\n"));
    assert_eq!(config.ok(&[&generate[..], &[bare, "Once"]].concat()), text);
    // The model's own tokenizer is used, so the missing file does not matter.
    let config = Config::new("tokenizer = '/nowhere/at/all'\n");
    assert_eq!(config.ok(&[&generate[..], &[whole, "Once"]].concat()), text);
    assert_eq!(config.ok(&["generate", "-t", "0", "-n", "4", "Once"]), text);
    config.run(&[&generate[..], &[bare, "Once"]].concat()).fails(&["/nowhere/at/all"]);
    let asked = ["--tokenizer", "/nowhere/else", "Once"];
    config.run(&[&generate[..], &[whole], &asked].concat()).fails(&["/nowhere/else"]);
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    for (text, parts) in [
        ("\ntemprature = 1", &["line 2", "temprature", "perhaps temperature"][..]),
        ("temperature = 'hot'", &["line 1", "temperature", "expected a number"]),
        (
            "[generate]\nmax-tokens = -3",
            &["line 2", "max-tokens", "expected a whole number that is not negative"],
        ),
        ("model = 5", &["line 1", "model", "in quotes"]),
        ("[generate]\njson = 'yes'", &["line 2", "json", "true or false"]),
        ("device = 'tpu'", &["line 1", "device", "auto, gpu, cpu"]),
        ("device = ['cpu', 'gpu']", &["line 1", "device", "not a list"]),
        ("device = []", &["line 1", "device", "empty list"]),
        ("offline = 1979-05-27", &["line 1", "offline"]),
        ("[gen]\nx = 1", &["line 1", "[gen]", "not a command"]),
        ("[session.lst]\n", &["line 1", "[lst] is not a command of session"]),
        ("\n\nmodel = ", &["line 3"]),
        ("model = 'a'\nmodel = 'b'", &["line 2", "duplicate"]),
        ("data = 'x'", &["line 1", "data", "under a command"]),
        ("[generate]\nprompt = 'x'", &["line 2", "prompt"]),
        ("\"a\\u001b[31m\" = 1", &["line 1", "a\\u{1b}[31m"]),
    ] {
        let config = Config::new(text);
        let file = config.file.to_str().unwrap();
        let error = config.run(&["generate", "-n", "1", "hi"]).fails(&[parts, &[file]].concat());
        assert!(!error.contains('\u{1b}'), "{error:?}");
        config.run(&["config", "show"]).fails(parts);
        // Commands that help to correct it work.
        config.ok(&["--help"]);
        assert_eq!(config.ok(&["config", "path"]), format!("{file}\n"));
    }
    let with = |name: &str, value: &str| {
        Run::of(CLI.command(&["generate", "-n", "1", "hi"]).env(name, value))
    };
    with("MLX_LLAMBA_DEVICE", "tpu").fails(&["MLX_LLAMBA_DEVICE", "auto, gpu, cpu"]);
    with("MLX_LLAMBA_GENERATE_ECHO", "maybe").fails(&["MLX_LLAMBA_GENERATE_ECHO", "true or false"]);
    with("MLX_LLAMBA_CONFIG", "/nowhere").fails(&["/nowhere", "no such file", "MLX_LLAMBA_CONFIG"]);
    with("MLX_LLAMBA_CONFIG", "/").fails(&["cannot read", "directory"]);
    with("MLX_LLAMBA_CONFIG", "/dev/zero").fails(&["/dev/zero", "longer than"]);
    let binary = Config::new("");
    std::fs::write(&binary.file, [0xff, 0xfe]).unwrap();
    binary.run(&["generate", "hi"]).fails(&["not UTF-8"]);
}

#[test]
fn options_with_a_meaning_of_their_own_have_no_common_variable() {
    // These variables have other meanings: directories, kernels, threads.
    for (name, value) in [("DATA", "/x"), ("CACHE", "/x"), ("THREADS", "1"), ("SIMD", "baseline")] {
        let mut command = CLI.command(&["config", "show"]);
        let run = Run::of(command.env(format!("MLX_LLAMBA_{name}"), value));
        assert!(run.out.starts_with("nothing is set"), "{name}: {run:?}");
    }
}

#[test]
fn show_tells_the_origin_of_every_value() {
    let config = Config::new("device = 'cpu'\n[generate]\ntop-k = 3\n");
    let file = config.file.to_str().unwrap();
    let mut command = config.command(&["config", "show", "generate", "--json"]);
    let run = Run::of(command.env("MLX_LLAMBA_TOP_K", "4").env("MLX_LLAMBA_SEED", "8"));
    let all: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(all["file"], file);
    let options = &all["commands"]["generate"];
    let found = |name: &str| (&options[name]["value"], options[name]["origin"].as_str().unwrap());
    assert_eq!(found("device"), (&"cpu".into(), format!("{file}, line 1").as_str()));
    assert_eq!(found("top-k"), (&"4".into(), "MLX_LLAMBA_TOP_K in the environment"));
    assert_eq!(found("seed"), (&"8".into(), "MLX_LLAMBA_SEED in the environment"));
    assert_eq!(found("max-tokens"), (&"256".into(), "built in"));
    let all = config.ok(&["config", "show"]);
    let line = all.lines().find(|line| line.starts_with("top-k")).unwrap();
    assert_eq!(line, format!("top-k = 3  ({file}, line 3): generate"));
    config.run(&["config", "show", "write"]).is_refused(&["write is not a command"]);
}

#[test]
fn a_file_to_begin_with_is_written_once_and_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = CLI.command(arguments);
        command.env_remove("MLX_LLAMBA_CONFIG").env_remove("XDG_CONFIG_HOME").env("HOME", home);
        Run::of(&mut command)
    };
    let file = run(&["config", "path"]).out.trim_end().to_owned();
    assert!(file.starts_with(home) && file.ends_with("mlx-llamba/config.toml"), "{file}");
    let made = run(&["config", "init"]);
    assert_eq!((made.code, made.out), (Some(0), format!("{file}\n")));
    assert!(run(&["config", "show"]).out.starts_with("nothing is set"));
    let text = std::fs::read_to_string(&file).unwrap();
    run(&["config", "init"]).fails(&[&file, "already exists"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    // Every commented-out line is valid.
    let setting = |line: &&str| line.contains(" = ") || line.starts_with("# [");
    let all: String =
        text.lines().filter(setting).map(|line| format!("{}\n", &line[2..])).collect();
    std::fs::write(&file, all).unwrap();
    assert!(run(&["config", "show"]).out.contains("max-tokens = 500"));
}

#[test]
fn a_session_keeps_its_model_whatever_the_default() {
    let config = Config::new("model = '/nowhere/at/all'\n");
    let session = config.directory.path().join("a.session");
    let chat = ["chat", "-t", "0", "-n", "4", "--session", session.to_str().unwrap()];
    let first = CLI.with_input(&chat, b"Once\n");
    assert_eq!(first.code, Some(0), "{first:?}");
    let mut again = config.command(&chat);
    let file = config.directory.path().join("input");
    std::fs::write(&file, "Then\n").unwrap();
    let again = Run::of(again.stdin(std::fs::File::open(&file).unwrap()));
    assert_eq!(again.code, Some(0), "{again:?}");
}
