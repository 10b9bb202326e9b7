//! Runs from text to a model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_llamba_mohawk::recipe::{Precision, Recipe, builtin};
use mlx_llamba_mohawk::run::{Job, Kind, Note, Task, run};
use mlx_llamba_mohawk::train::{Ending, Event};

/// A tiny Llama that is trained in `directory` for ten steps.
fn job(directory: &Path) -> Job {
    job_with(directory, "compute=float32")
}

fn job_with(directory: &Path, change: &str) -> Job {
    let text: String =
        (0..200).map(|i| format!("{{\"text\": \"Anna had {i} apples.\"}}\n")).collect();
    let data = directory.join("text.jsonl");
    std::fs::write(&data, text).unwrap();
    let changes = [
        "model.hidden_size=8",
        "model.num_hidden_layers=2",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=4",
        "model.intermediate_size=12",
        "training.batch=2",
        "training.length=16",
        "training.tokens=320",
        change,
    ];
    let changes = changes.map(String::from);
    let assets = "../mlx-llamba/assets/llamba-stories";
    let tokenizer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(assets);
    let recipe = builtin("tiny-teacher").unwrap();
    let recipe = Recipe::parse_training("tiny-teacher", recipe, &changes).unwrap();
    let task = Task::Train { kind: Kind::Llamba, tokenizer };
    Job::new(task, vec![data], directory.join("run"), recipe)
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_begins() {
    let directory = tempfile::tempdir().unwrap();
    let mut told = None;
    let mut tell = |note: Note<'_>| {
        if let Note::Cost(cost) = note {
            told = Some((cost.bytes(), cost.seconds()));
        }
        ControlFlow::Continue(())
    };
    // Too little for the parameters, and enough for them but not for a step.
    let model = 4 * 4 * 40_000;
    for memory in [1000, model] {
        let job = job(directory.path()).memory(memory);
        let error = run(&job, &mut tell).unwrap_err().to_string();
        for part in ["the run needs about", "of memory", "micro_batch"] {
            assert!(error.contains(part), "{error}");
        }
    }
    // There is nothing to resume, and no other run in the way.
    let outcome = run(&job(directory.path()), &mut tell).unwrap();
    assert_eq!(outcome.ending, Ending::Done);
    let (bytes, seconds) = told.unwrap();
    assert!(bytes > model && bytes < 1 << 28 && seconds > 0.0, "{bytes} bytes, {seconds} s");
}

#[test]
fn a_run_in_bfloat16_is_a_run_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    for compute in ["float32", "bfloat16"] {
        let mut job = job_with(directory.path(), &format!("compute={compute}"));
        job.output = directory.path().join(compute);
        let mut of_run = Vec::new();
        let mut tell = |note: Note<'_>| {
            if let Note::Train(Event::Step { step, .. }) = note {
                of_run.push(step.loss());
            }
            // The float32 run is stopped halfway.
            match compute == "float32" && of_run.len() == 5 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let ending = run(&job, &mut tell).unwrap().ending;
        assert_eq!(ending == Ending::Done, compute == "bfloat16");
        if ending == Ending::Stopped {
            job.recipe.compute = Precision::Bfloat16;
            let error = run(&job.resume(true), &mut tell).unwrap_err().to_string();
            assert!(error.contains("compute"), "{error}");
        }
        losses.push(of_run);
    }
    for (float, bfloat16) in losses[0].iter().zip(&losses[1]) {
        assert!(float != bfloat16 && (float / bfloat16 - 1.0).abs() < 1e-3, "{losses:?}");
    }
}
