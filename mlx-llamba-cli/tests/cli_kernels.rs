//! What computes: the environment chooses, the commands say.

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
    for (value, path) in
        [("auto", "CPU kernels ("), ("custom", "CPU kernels ("), ("plain", "plain MLX operations")]
    {
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
            .fails(&["MLX_LLAMBA_KERNELS is \"fast\"", "expected auto, plain or custom"]);
    }
}
