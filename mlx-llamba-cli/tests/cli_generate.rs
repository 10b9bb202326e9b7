//! `mlx-llamba generate`: texts, events, states and statistics.

#![allow(clippy::unwrap_used)]

use mlx_llamba::{Generation, Llamba};
use mlx_llamba_tests::command::{Cli, names};
use serde_json::{Value, json};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const PROMPT: &str = "Once upon a time";

/// Without the penalty that the built-in model has by default.
const GREEDY: [&str; 5] = ["generate", "-t", "0", "--repetition-penalty", "1"];

/// Generates a greedy text of `n` tokens, with more arguments.
fn greedy(n: &str, others: &[&str]) -> String {
    CLI.ok(&[&GREEDY[..], &["-n", n], others].concat())
}

/// Parses lines of JSON.
fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_model_inside_writes_what_the_library_writes() {
    let llamba = Llamba::embedded().load().unwrap();
    let expected = llamba.generate(PROMPT, &Generation::greedy().max_tokens(24)).unwrap();
    // The environment of the command has no network and no cache.
    assert_eq!(greedy("24", &[PROMPT]), expected.text + "\n");
    assert_eq!(greedy("24", &["--offline", PROMPT]), greedy("24", &[PROMPT]));
}

#[test]
fn prompts_come_from_arguments_standard_input_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prompt");
    std::fs::write(&file, PROMPT).unwrap();
    let expected = greedy("8", &[PROMPT]);
    // The line end of `echo` is left out, and no other.
    for (end, same) in [("", true), ("\n", true), ("\r\n", true), ("\n\n", false)] {
        let text = format!("{PROMPT}{end}");
        let piped = CLI.with_input(&[&GREEDY[..], &["-n", "8", "-"]].concat(), text.as_bytes());
        assert_eq!((piped.code, piped.out == expected), (Some(0), same));
        let said = "warn: the line end at the end of standard input is left out\n";
        assert_eq!(piped.err, if end.is_empty() { "" } else { said });
    }
    assert_eq!(greedy("8", &["--prompt-file", file.to_str().unwrap()]), expected);
    assert_eq!(greedy("8", &["--echo", PROMPT]), format!("{PROMPT}{expected}"));
    // A prompt that looks like an option.
    assert_eq!(greedy("0", &["--echo", "--", "-x"]), "-x\n");
}

#[test]
fn json_lines_are_the_same_text() {
    let text = greedy("12", &[PROMPT]);
    let events = events(&greedy("12", &["--json", PROMPT]));
    let joined: String = events.iter().filter_map(|e| e["text"].as_str()).collect();
    assert_eq!(joined + "\n", text);
    let kinds: Vec<_> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "prompt");
    assert_eq!(kinds[1..13], ["token"; 12]);
    assert_eq!(kinds[13..], ["end"]);
    let end = &events[13];
    assert_eq!(end["reason"]["kind"], "length");
    assert_eq!(end["stats"]["generated_tokens"], 12);
    assert!(events[1].get("logprobs").is_none());
}

#[test]
fn logprobs_are_reported_on_request() {
    for event in &events(&greedy("3", &["--json", "--logprobs", "2", PROMPT]))[1..4] {
        let logprobs = &event["logprobs"];
        assert_eq!(logprobs["top"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&logprobs["top"][0][0], &logprobs["top"][0][1]),
            (&event["id"], &logprobs["chosen"])
        );
    }
    // They require --json.
    assert_eq!(CLI.run(&["generate", "--logprobs", "2", PROMPT]).code, Some(2));
}

#[test]
fn statistics_go_to_standard_error() {
    let run = CLI.run(&[&GREEDY[..], &["-n", "5", "--verbose", "--seed", "7", PROMPT]].concat());
    assert_eq!((run.code, run.out), (Some(0), greedy("5", &[PROMPT])));
    for part in [
        "generated: 5 tokens",
        "tok/s",
        "first token after",
        "MiB",
        "seed 7",
        "by length",
        "CPU kernels (",
    ] {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    assert_eq!(run.err.lines().count(), 1);
}

#[test]
fn texts_end_before_a_stop_string() {
    let text = greedy("40", &[PROMPT]);
    let (before, _) = text.split_once('.').unwrap();
    assert_eq!(greedy("40", &["--stop", "zebra", "--stop", ".", PROMPT]), format!("{before}\n"));
    let events = events(&greedy("40", &["--stop", ".", "--json", PROMPT]));
    let reason = &events.last().unwrap()["reason"];
    assert_eq!((&reason["kind"], &reason["value"]), (&"stop".into(), &".".into()));
}

#[test]
fn no_tokens_are_a_text_too() {
    assert_eq!(greedy("0", &[PROMPT]), "\n");
    assert_eq!(greedy("0", &["--echo", PROMPT]), format!("{PROMPT}\n"));
    // An empty prompt starts a new text.
    assert!(greedy("5", &[""]).len() > 5);
}

#[test]
fn pieces_of_the_prompt_do_not_show() {
    assert_eq!(greedy("6", &["--prefill", "1", PROMPT]), greedy("6", &[PROMPT]));
    let events = events(&greedy("1", &["--json", "--prefill", "2", PROMPT]));
    let read: Vec<_> = events.iter().filter_map(|e| e["read"].as_u64()).collect();
    assert_eq!(read[..2], [2, 4]);
}

#[test]
fn saved_states_continue_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (one, two) = (path("one.state"), path("two.state"));
    for sampling in [&["-t", "0"][..], &["-t", "1", "--seed", "3"]] {
        let run = |others: &[&str]| {
            let text = CLI.ok(&[&["generate"], others].concat());
            text.strip_suffix('\n').unwrap().to_owned()
        };
        let whole = run(&[sampling, &["-n", "20", PROMPT]].concat());
        let first = run(&[sampling, &["-n", "8", "--state-out", &one, PROMPT]].concat());
        // The random sequence continues; a repeated seed would restart it.
        let again = ["-t", sampling[1], "-n", "5", "--state-in", &one, "--state-out", &two];
        let second = run(&again);
        let third = run(&["-t", sampling[1], "-n", "7", "--state-in", &two]);
        assert_eq!(first + &second + &third, whole);
    }
    assert_eq!(names(directory.path()), ["one.state", "two.state"]);
    // A prompt that is only read, and continued later.
    let read = greedy("0", &["--state-out", &two, PROMPT]);
    assert_eq!(read + &greedy("9", &["--state-in", &two]), format!("\n{}", greedy("9", &[PROMPT])));
    // With more text in between.
    let more = greedy("3", &["--state-in", &one, "--echo", " And then"]);
    assert!(more.starts_with(" And then"));
}

#[test]
fn devices_and_dtypes_are_chosen() {
    assert_eq!(greedy("5", &["--device", "cpu", PROMPT]), greedy("5", &[PROMPT]));
    assert!(greedy("3", &["--dtype", "bfloat16", PROMPT]).len() > 3);
    if cfg!(target_os = "linux") {
        CLI.fails(&["generate", "--device", "gpu", PROMPT], &["--device gpu: expected cpu"]);
    }
}

#[test]
fn texts_are_constrained() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let schema = json!({"type": "object", "required": ["color"], "additionalProperties": false,
        "properties": {"color": {"enum": ["red", "blue"]}}});
    let schema = file("schema.json", &schema.to_string());
    let text = greedy("40", &["--json-schema", &schema, PROMPT]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(["red", "blue"].map(Value::from).contains(&value["color"]), "{text}");
    let grammar = file("list.lark", "start: item (\", \" item){2}\nitem: \"cat\" | \"dog\"");
    let text = greedy("40", &["--grammar", &grammar, PROMPT]);
    assert!(text.trim_end().split(", ").all(|word| word == "cat" || word == "dog"), "{text}");
    let end = events(&greedy("40", &["--json", "--regex", "[0-9]{3}", PROMPT])).pop().unwrap();
    assert_eq!(end["reason"], json!({"kind": "complete"}));
    let replied = CLI.with_input(&["chat", "--regex", "yes|no"], b"Is it red?\nAnd blue?\n");
    let answers: Vec<&str> = replied.out.split_whitespace().collect();
    assert!(answers.len() == 2 && answers.iter().all(|a| ["yes", "no"].contains(a)), "{answers:?}");

    let bad = file("bad.json", "{\"items\": {\"type\": \"strin\"}}");
    let generate = |option: &str, value: &str, parts: &[&str]| {
        CLI.fails(&["generate", option, value, PROMPT], parts);
    };
    generate("--json-schema", &bad, &["JSON schema: Invalid type: strin (at /items)"]);
    generate("--json-schema", &grammar, &["list.lark is not JSON", "line 1 column 1"]);
    generate("--grammar", "nothing.lark", &["cannot read nothing.lark"]);
    let regex = ["generate", "--regex", "(", PROMPT];
    CLI.refuses(&regex, &["regular expression", "unclosed group"]);
    let two = CLI.run(&["generate", "--regex", "a", "--grammar", &grammar, PROMPT]);
    assert!(two.code == Some(2) && two.err.contains("cannot be used with"), "{two:?}");
}
