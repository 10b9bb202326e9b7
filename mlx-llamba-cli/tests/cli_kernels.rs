//! Kernels: chosen by the environment, shown by commands.

#![allow(clippy::unwrap_used)]

use mlx_llamba_tests::command::{Cli, Run};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const GENERATE: [&str; 6] = ["generate", "-t", "0", "-n", "24", "Once upon a time"];

fn with(kernels: &str, args: &[&str]) -> Run {
    Run::of(CLI.command(args).env("MLX_LLAMBA_KERNELS", kernels))
}

#[test]
fn both_ways_write_the_same_and_say_what_ran() {
    let expected = CLI.ok(&GENERATE);
    for (value, path) in [
        ("auto", "CPU kernels ("),
        ("single", "CPU kernels ("),
        ("custom", "CPU kernels ("),
        ("plain", "plain MLX operations"),
    ] {
        let run = with(value, &[&GENERATE[..], &["--verbose"]].concat());
        assert_eq!((run.code, &run.out), (Some(0), &expected), "{value}: {}", run.err);
        assert!(run.err.contains(path), "{value}: {}", run.err);
        let run = with(value, &["inspect"]);
        assert!(run.out.contains(&format!("kernels      {path}")), "{value}: {}", run.out);
    }
}

#[test]
fn what_has_no_kernel_runs_plain_and_says_why() {
    let args = ["--log-level", "info", "generate", "-n", "2", "--dtype", "bfloat16", "Hello"];
    let run = CLI.run(&args);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let why = "plain MLX operations, because the CPU kernels take float32 activations only";
    assert!(run.err.contains(why), "{}", run.err);
    with("custom", &args)
        .fails(&["MLX_LLAMBA_KERNELS is custom, but the CPU kernels take float32"]);
}

#[test]
fn another_value_is_an_error() {
    for command in [&["inspect"][..], &GENERATE] {
        with("fast", command)
            .fails(&["MLX_LLAMBA_KERNELS is \"fast\"", "expected auto, plain, single or custom"]);
    }
}

/// The check of the kernels at load changes no text, and keeps its verdict in the cache.
#[test]
fn kernels_are_checked_at_load_if_wanted() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("mlx-llamba");
    let teacher =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba-teacher/tests/fixtures/mixed.gguf");
    let verdicts = || std::fs::read_dir(&cache).map_or(0, Iterator::count);
    for (model, before) in [(&[][..], 0), (&["--model", teacher], 1)] {
        let args = [&GENERATE[..], &["--device", "cpu"], model].concat();
        let expected = CLI.ok(&args);
        for (when, files) in [("never", before), ("once", before), ("always", before + 1)] {
            let args = [&args[..], &["--check-kernels", when]].concat();
            let run = Run::of(CLI.command(&args).env("XDG_CACHE_HOME", home.path()));
            assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{when}");
            assert_eq!((run.out, verdicts()), (expected.clone(), files), "{when}");
        }
    }
    assert_eq!(CLI.run(&[&GENERATE[..], &["--check-kernels", "twice"]].concat()).code, Some(2));
}

fn with_variable(name: &str, value: &str, args: &[&str]) -> Run {
    Run::of(CLI.command(args).env(name, value))
}

#[test]
fn impossible_settings_of_the_cpu_kernels_are_errors() {
    for command in [&["inspect"][..], &GENERATE] {
        for (name, values, expected) in [
            ("MLX_LLAMBA_THREADS", &["0", "-1", "257", "two", "1.5"][..], "from 1 to 256"),
            ("MLX_LLAMBA_SIMD", &["fast", "AVX2", "sse9"], "of this machine: baseline"),
        ] {
            for value in values {
                with_variable(name, value, command)
                    .fails(&[&format!("{name} is {value:?}, expected "), expected]);
            }
        }
        // This variable is also the default of an option.
        let name = "MLX_LLAMBA_ACTIVATIONS";
        for value in ["int4", "INT8"] {
            with_variable(name, value, command).fails(&[name, "expected one of float32, int8"]);
        }
    }
    for (name, value) in
        [("MLX_LLAMBA_THREADS", "3"), ("MLX_LLAMBA_SIMD", "baseline"), ("MLX_LLAMBA_SIMD", "")]
    {
        assert_eq!(with_variable(name, value, &["inspect"]).code, Some(0), "{name}={value}");
    }
    let run = with_variable("MLX_LLAMBA_THREADS", "3", &["inspect"]);
    assert!(run.out.contains("3 threads"), "{}", run.out);
}

#[test]
fn int8_activations_are_asked_for_by_a_flag_or_the_environment() {
    let int8 = "threads, int8 activations)";
    let flag = [&GENERATE[..], &["--verbose", "--activations", "int8"]].concat();
    let run = CLI.run(&flag);
    assert!(run.code == Some(0) && run.err.contains(int8), "{}", run.err);
    // The option overrides the variable.
    for (flags, found) in [(&[][..], true), (&["--activations", "float32"], false)] {
        let args = [&GENERATE[..], &["--verbose"], flags].concat();
        let run = with_variable("MLX_LLAMBA_ACTIVATIONS", "int8", &args);
        assert_eq!(run.err.contains(int8), found, "{}", run.err);
    }
    let run = with_variable("MLX_LLAMBA_ACTIVATIONS", "int8", &["inspect"]);
    assert!(run.out.contains(int8), "{}", run.out);
    let shape = ["bench", "--shape", "custom", "--layers", "1", "--width", "64", "--bits", "4"];
    let bench = [&shape[..], &["-p", "3", "-n", "0", "--activations", "int8"]].concat();
    assert!(CLI.ok(&bench).contains(int8));
    // Commands tell that there are none.
    with("plain", &flag).fails(&["activations in int8", "plain MLX operations", "float32"]);
    CLI.run(&[&flag[..], &["--dtype", "float16"]].concat()).fails(&["activations in int8"]);
}

#[test]
fn compare_measures_what_int8_activations_cost() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "Once upon a time there was a little dog. It liked to play.")
        .unwrap();
    let file = text.path().display().to_string();
    let kl = |flags: &[&str]| -> f64 {
        let args =
            [&["compare", "llamba-stories", "llamba-stories", &file, "--json"], flags].concat();
        let found: serde_json::Value = serde_json::from_str(&CLI.ok(&args)).unwrap();
        found["mean_kl"]["value"].as_f64().unwrap()
    };
    let cost = kl(&["--other-activations", "int8"]);
    assert!(1e-7 < cost && cost < 1e-2, "{cost}");
    for both in [&[][..], &["--activations", "int8"]] {
        assert!(kl(both).abs() < 1e-9, "{both:?}");
    }
}
