//! Every sampling option of `mlx-llamba generate` reaches the model: each has an effect that no other
//! option has.

#![allow(clippy::unwrap_used)]

use mlx_llamba_tests::command::Cli;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const PROMPT: &str = "Once upon a time";

/// Generates a text of 24 tokens with some options.
fn text(options: &str) -> String {
    let options: Vec<&str> = options.split(' ').collect();
    CLI.ok(&[&["generate", "-n", "24"], &options[..], &[PROMPT]].concat())
}

/// Generates 24 token ids with some options.
fn ids(options: &str) -> Vec<u64> {
    let lines = text(&format!("--json {options}"));
    let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter_map(|event| event["id"].as_u64()).collect()
}

#[test]
fn equal_seeds_give_equal_texts() {
    let one = text("-t 1 --seed 1");
    assert_eq!(text("-t 1 --seed 1"), one);
    assert_ne!(text("-t 1 --seed 2"), one);
    assert_ne!(text("-t 1.5"), text("-t 1.5"), "without a seed");
}

#[test]
fn what_leaves_one_token_is_greedy() {
    let greedy = text("-t 0");
    assert_ne!(text("-t 1 --seed 5"), greedy);
    for one in ["--top-k 1", "--top-p 0.000001", "--min-p 1"] {
        assert_eq!(text(&format!("-t 1 --seed 5 {one}")), greedy, "{one}");
    }
}

#[test]
fn a_model_brings_its_own_defaults() {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba/assets/llamba-stories");
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    std::fs::copy(format!("{assets}/tokenizer.json"), place("tokenizer.json")).unwrap();
    std::fs::write(place("generation_config.json"), r#"{"temperature": 0.0}"#).unwrap();
    let model = format!("--seed 5 --tokenizer {}", directory.path().display());
    let greedy = text("-t 0 --repetition-penalty 1");
    assert_eq!(text(&model), greedy);
    assert_ne!(text(&format!("{model} -t 1")), greedy);
}

#[test]
fn filters_change_what_is_drawn() {
    let with = |top_k: &str, top_p: &str, min_p: &str| {
        text(&format!("-t 2 --seed 5 --top-k {top_k} --top-p {top_p} --min-p {min_p}"))
    };
    let free = with("0", "1", "0");
    assert_eq!(with("0", "1", "0"), free);
    assert_ne!(with("3", "1", "0"), free, "--top-k");
    assert_ne!(with("0", "0.5", "0"), free, "--top-p");
    assert_ne!(with("0", "1", "0.2"), free, "--min-p");
}

#[test]
fn biases_force_and_forbid_tokens() {
    assert_eq!(ids("-t 1 --logit-bias 300=1000"), [300; 24]);
    let first = ids("-t 0")[0];
    let others = ids(&format!("-t 0 --logit-bias {first}=-1000 --logit-bias 7=-1000"));
    assert!(!others.contains(&first));
}

#[test]
fn penalties_change_the_text_each_in_its_way() {
    // A bias favors one id; penalties disfavor repetition.
    let base = "-t 0 --logit-bias 300=40";
    assert_eq!(ids(base), [300; 24]);
    let count = |options: &str| {
        let all = ids(&format!("{base} {options}"));
        (all.iter().filter(|&&id| id == 300).count(), all)
    };
    // A presence penalty applies after the first occurrence.
    let (once, all) = count("--presence-penalty 100");
    assert_eq!((once, all[0]), (1, 300));
    // A frequency penalty adds up.
    let (some, all) = count("--frequency-penalty 4");
    assert!(some > 1 && some < 24 && all[..2] == [300, 300], "{all:?}");
    let (fewer, _) = count("--repetition-penalty 1000");
    assert!(fewer < 24, "{fewer}");
    // Tokens outside of the window may be repeated.
    let (again, all) = count("--presence-penalty 100 --penalty-window 4");
    assert!(again > 1 && all[1..5].iter().all(|&id| id != 300), "{all:?}");
}

#[test]
fn negative_penalties_are_welcome() {
    let (plain, repeated) = (ids("-t 0"), ids("-t 0 --presence-penalty -100"));
    // The first token repeats forever.
    assert_eq!(repeated, [plain[0]; 24]);
}

#[test]
fn impossible_values_name_the_option() {
    for (option, value) in [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "2"),
        ("--top-p", "-0.5"),
        ("--min-p", "1.5"),
        ("--repetition-penalty", "0"),
        ("--repetition-penalty", "-2"),
        ("--penalty-window", "0"),
        ("--logit-bias", "9999=1"),
        ("--prefill", "0"),
        ("--stop", ""),
    ] {
        CLI.refuses(&["generate", option, value, PROMPT], &[option, "expected"]);
    }
    for (option, value) in [
        ("--top-k", "-1"),
        ("--max-tokens", "-1"),
        ("--seed", "x"),
        ("--logit-bias", "5"),
        ("--logit-bias", "x=5"),
        ("--logit-bias", "5=nan"),
    ] {
        let run = CLI.run(&["generate", option, value, PROMPT]);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.err.starts_with("error: ") && run.err.contains(option), "{run:?}");
    }
}
