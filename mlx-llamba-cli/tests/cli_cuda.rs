//! The choice of MLX for CUDA, beside a stand-in for NVIDIA's driver. For builds with the feature `cuda`;
//! a machine with a GPU is not needed, and CI builds without the feature.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

use mlx_llamba_tests::command::{Cli, Run};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

const DRIVER: &str = r#"
#include <stdlib.h>
static int number(const char* name) { const char* text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return number("FAKE_INIT"); }
int cuDriverGetVersion(int* version) { *version = number("FAKE_VERSION"); return 0; }
int cuDeviceGetCount(int* count) { *count = number("FAKE_GPUS"); return 0; }
"#;

#[test]
fn the_cpu_is_used_and_the_reason_named_without_a_fitting_driver_and_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let (source, driver) = (folder.path().join("driver.c"), folder.path().join("libcuda.so.1"));
    std::fs::write(&source, DRIVER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]).arg(&source).arg("-o");
    assert!(compiler.arg(&driver).status().unwrap().success());
    for (version, gpus, init, said) in [
        (
            "12040",
            "1",
            "0",
            "FAIL  CUDA      the NVIDIA driver is for CUDA up to 12.4, expected 13.0",
        ),
        ("13000", "0", "0", "warn  CUDA      the NVIDIA driver finds no GPU"),
        ("13000", "1", "100", "warn  CUDA      the NVIDIA driver finds no GPU"),
    ] {
        let variables = [
            ("LD_LIBRARY_PATH", folder.path().to_str().unwrap()),
            ("FAKE_VERSION", version),
            ("FAKE_GPUS", gpus),
            ("FAKE_INIT", init),
        ];
        let mut doctor = CLI.command(&["doctor"]);
        let run = Run::of(doctor.envs(variables));
        assert!(run.out.contains(said), "{said}: {}", run.out);
        assert!(run.out.contains("mlx_cpu") || run.out.contains("mlx-cpu"), "{}", run.out);
        let mut generate = CLI.command(&["generate", "--max-tokens", "1", "Once"]);
        let run = Run::of(generate.envs(variables));
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.err.starts_with("warn: running on the CPU: the NVIDIA driver"), "{}", run.err);
    }
    // With both, the command starts again with the other library, which finds that the driver is none.
    let mut doctor = CLI.command(&["doctor"]);
    let run = Run::of(doctor.env("LD_LIBRARY_PATH", folder.path()).envs([
        ("FAKE_VERSION", "13000"),
        ("FAKE_GPUS", "1"),
        ("FAKE_INIT", "0"),
    ]));
    assert!(run.out.contains("ok    CUDA      "), "{run:?}");
    assert!(run.out.contains("FAIL  device    "), "{run:?}");
}
