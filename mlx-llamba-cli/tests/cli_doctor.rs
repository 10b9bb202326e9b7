//! `mlx-llamba doctor` with a good installation and with broken ones.

#![allow(clippy::panic, clippy::unwrap_used)]

use mlx_llamba_tests::command::{Cli, Run, names};
use mlx_llamba_tests::fake_hub::{Access, FakeHub};
use serde_json::Value;
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// Runs it with its own home directory.
fn doctor(home: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = CLI.command(&[&["doctor"], arguments].concat());
    command.env("HF_HOME", home.path().join("hf")).env("MLX_LLAMBA_DATA", home.path().join("data"));
    Run::of(command.envs(variables.iter().copied()))
}

fn findings(run: &Run) -> Value {
    serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"))
}

/// Returns the finding about a topic: state, text and help.
fn about<'v>(found: &'v Value, topic: &str) -> (&'v str, &'v str, &'v str) {
    let all = found["findings"].as_array().unwrap();
    let finding = all.iter().find(|finding| finding["topic"] == topic);
    let finding = finding.unwrap_or_else(|| panic!("{topic}: {found}"));
    let text = |name: &str| finding[name].as_str().unwrap_or_default();
    (text("state"), text("text"), text("help"))
}

#[test]
fn a_model_is_checked_too() {
    let home = tempfile::tempdir().unwrap();
    let found = findings(&doctor(&home, &[], &["--json", "-m", "llamba-stories"]));
    let (state, text, _) = about(&found, "model");
    assert!(state == "good" && text.starts_with("llamba-stories: a Llamba, "), "{text}");
    assert_eq!(about(&found, "tokenizer").0, "good");
    let run = doctor(&home, &[], &["--json", "-m", "/nowhere/at/all"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(about(&findings(&run), "model").0, "problem");
}

#[test]
fn all_is_well() {
    let home = tempfile::tempdir().unwrap();
    let run = doctor(&home, &[], &["--json"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let found = findings(&run);
    assert_eq!(found["ok"], true);
    for topic in
        ["version", "device", "kernels", "MLX", "processor", "memory", "models", "config", "cache"]
    {
        assert_eq!(about(&found, topic).0, "good", "{topic}");
    }
    assert!(about(&found, "MLX").1.starts_with("0.32.2, "));
    assert!(about(&found, "cache").1.contains("0 repositories"));
    assert!(about(&found, "token").1.starts_with("none"));
    let all = found["findings"].as_array().unwrap();
    let details = |topic: &str| {
        all.iter().find(|finding| finding["topic"] == topic).unwrap()["details"].clone()
    };
    let memory = details("memory");
    assert!(memory["total"].as_u64() >= memory["available"].as_u64());
    // 9 forms; for each model, 4 bits need less than bfloat16, and that less than float32.
    let models = details("models");
    let bytes: Vec<u64> =
        models.as_array().unwrap().iter().map(|m| m["bytes"].as_u64().unwrap()).collect();
    assert_eq!(bytes.len(), 9);
    assert!(bytes.chunks(3).all(<[u64]>::is_sorted), "{bytes:?}");
    // Llamba-8B has 8.03 billion values.
    assert!((16.0e9..18.5e9).contains(&(bytes[7] as f64)), "{bytes:?}");
    // The same as text; it leaves nothing behind.
    let run = doctor(&home, &[], &[]);
    assert_eq!(run.code, Some(0));
    assert!(run.out.lines().all(|line| !line.starts_with("FAIL")), "{}", run.out);
    assert!(run.out.contains("ok    device    "), "{}", run.out);
    assert_eq!(names(home.path()), Vec::<String>::new());
}

/// A table of the kernels, for all or some cases, as text and as JSON.
#[test]
fn kernels_are_compared_with_their_definitions() {
    let home = tempfile::tempdir().unwrap();
    let run = doctor(&home, &[], &["--kernels", "mixer", "l=1 "]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let lines: Vec<&str> = run.out.lines().collect();
    assert!(lines[0].starts_with(&format!("mlx-llamba {}, MLX 0.", env!("CARGO_PKG_VERSION"))));
    assert!(lines[0].contains(" kernels") && lines[1].len() > 10, "{}", run.out);
    assert!(lines[2].starts_with("memory ") && lines[2].ends_with(" GB/s"), "{}", run.out);
    assert!(lines[4].starts_with("case") && lines[4].ends_with("us    GB/s"), "{}", run.out);
    let rows = &lines[5..lines.len() - 2];
    assert!(rows.len() > 5, "{}", run.out);
    for row in rows {
        let columns: Vec<f64> = row[64..].split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(row.starts_with("mixer Float") && row.contains(" l=1 "), "{row}");
        assert!(columns.len() == 4 && columns[0] <= columns[1] && columns[2] > 0.0, "{row}");
    }
    assert_eq!(*lines.last().unwrap(), format!("within their bounds: {0} of {0}", rows.len()));

    let run = doctor(&home, &[], &["--kernels", "--json", "swiglu", "Float32", "3 x"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let found: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(found["ok"], true);
    assert_eq!(found["cases"][0]["kernel"], "swiglu");
    assert_eq!(found["cases"][0]["case"], "swiglu Float32 3 x 24");
    assert!(found["machine"]["system"].as_str().unwrap().len() > 10, "{found}");

    let plain = ("MLX_LLAMBA_KERNELS", "plain");
    for (variables, words, parts) in [
        (&[][..], &["--kernels", "no", "such"][..], ["no case", "no such"]),
        (&[plain], &["--kernels"], ["no kernels", "plain MLX operations"]),
    ] {
        let run = doctor(&home, variables, words);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(parts.iter().all(|part| run.err.contains(part)), "{run:?}");
    }
    assert_eq!(doctor(&home, &[], &["mixer"]).code, Some(2), "words are for --kernels");
}

#[test]
fn what_is_broken_is_found_and_how_to_get_it() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "temprature = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let under = format!("{file}/x");
    for (variable, value, topic, text, help) in [
        ("HF_HOME", under.as_str(), "cache", "cannot be written", "HF_HOME"),
        ("HF_HOME", "/proc/nowhere", "cache", "cannot be written", "HF_HUB_CACHE"),
        ("MLX_LLAMBA_DATA", under.as_str(), "data", "cannot be written", "MLX_LLAMBA_DATA"),
        ("MLX_LLAMBA_CONFIG", file, "config", "line 1: temprature", "config --help"),
        ("MLX_LLAMBA_KERNELS", "fast", "kernels", "\"fast\"", "unset MLX_LLAMBA_KERNELS"),
        ("MLX_LLAMBA_DEVICE", "tpu", "config", "auto, gpu, cpu", "correct it"),
        ("HF_TOKEN", "two words", "token", "not allowed in a token", "create a new token"),
    ] {
        let run = doctor(&home, &[(variable, value)], &["--json"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.err, "error: 1 problem found\n", "{run:?}");
        let found = findings(&run);
        assert_eq!(found["ok"], false);
        let (state, said, what_to_do) = about(&found, topic);
        assert_eq!(state, "problem", "{variable}");
        assert!(said.contains(text) && what_to_do.contains(help), "{said}; {what_to_do}");
        assert!(!run.out.contains("two words"));
        let run = doctor(&home, &[(variable, value)], &[]);
        assert!(run.out.contains("FAIL") && run.out.contains("-> "), "{run:?}");
    }
    // A warning is not a failure.
    for (variable, value, topic, text) in [
        ("MLX_LLAMBA_KERNELS", "plain", "kernels", "plain MLX operations"),
        ("MLX_LLAMBA_TEMPRATURE", "1", "variables", "MLX_LLAMBA_TEMPRATURE"),
    ] {
        let run = doctor(&home, &[(variable, value)], &["--json"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        let found = findings(&run);
        let (state, said, _) = about(&found, topic);
        assert!(state == "warning" && said.contains(text), "{said}");
    }
}

#[test]
fn the_hub_is_asked_only_on_demand() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(&[]);
    hub.contents().access = Access::Gated("good-token".to_owned());
    let endpoint = ("HF_ENDPOINT", hub.endpoint.as_str());
    let good = ("HF_TOKEN", "good-token");
    let offline = ("HF_HUB_OFFLINE", "1");
    for (variables, arguments, text) in [
        (&[endpoint, good][..], &["--json"][..], "--hub asks it"),
        (&[endpoint, good], &["--json", "--hub", "--offline"], "not asked"),
        (&[endpoint, good, offline], &["--json", "--hub"], "HF_HUB_OFFLINE"),
    ] {
        let run = doctor(&home, variables, arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(about(&findings(&run), "hub").1.contains(text), "{run:?}");
        assert!(hub.take_requests(|_| true).is_empty());
    }
    let asked = |variables: &[(&str, &str)]| {
        let run = doctor(&home, variables, &["--json", "--hub"]);
        assert!(!format!("{run:?}").contains("-token"), "{run:?}");
        (run.code, findings(&run))
    };
    let (code, found) = asked(&[endpoint, good]);
    assert_eq!((code, about(&found, "hub").0), (Some(0), "good"));
    assert!(about(&found, "hub").1.contains("somebody"));
    assert_eq!(about(&found, "token").1, "there is one (not shown)");
    assert_eq!(hub.take_requests(|_| true).len(), 1);
    let (code, found) = asked(&[endpoint]);
    assert_eq!((code, about(&found, "hub").0), (Some(0), "good"));
    let (code, found) = asked(&[endpoint, ("HF_TOKEN", "other-token")]);
    assert_eq!((code, about(&found, "hub").0), (Some(1), "problem"));
    assert!(about(&found, "hub").2.contains("set HF_TOKEN"), "{found}");
    // A hub that is down.
    let (code, found) = asked(&[("HF_ENDPOINT", "http://127.0.0.1:1"), good]);
    let (state, text, help) = about(&found, "hub");
    assert_eq!((code, state), (Some(1), "problem"));
    assert!(text.contains("cannot be reached") && help.contains("check the network"), "{found}");
}

#[test]
fn settings_are_listed_with_their_origins() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.toml");
    std::fs::write(&file, "\n[serve]\nmax-rows = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let variables = [
        ("MLX_LLAMBA_CONFIG", file),
        ("MLX_LLAMBA_SEED", "1"),
        ("MLX_LLAMBA_SERVE_API_KEY", "hush"),
    ];
    let run = doctor(&home, &variables, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in [
        format!("serve max-rows: {file}, line 3"),
        "seed: MLX_LLAMBA_SEED in the environment".to_owned(),
        "serve api-key: MLX_LLAMBA_SERVE_API_KEY in the environment".to_owned(),
    ] {
        assert!(run.out.contains(&line), "{line}: {}", run.out);
    }
    assert!(!run.out.contains("hush"), "{}", run.out);
}
