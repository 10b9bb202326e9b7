//! The training machine on a toy: what it computes, and that it can be stopped anywhere.

#![allow(clippy::unwrap_used)]

mod toy;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use mlx_llamba::kernels::Backend;
use mlx_llamba_kernels::AdamWResult;
use mlx_llamba_mohawk::data::Windows;
use mlx_llamba_mohawk::train::{
    AdamW, Begun, Checkpoints, Ending, Event, Identity, Moments, OnEvent, Session, SessionOptions,
    Stage, StageOptions, State, Trainer, clip_factor, global_norm,
};
use mlx_llamba_mohawk::{Error, Parameters, Result};
use mlx_rs::Array;
use serde_json::json;
use toy::{Toy, bits, corpus, options, windows};

#[test]
fn adamw_and_clipping_as_in_pytorch() {
    for backend in [Backend::PLAIN, Backend::CPU.differentiable()] {
        adamw_as_in_pytorch(backend);
    }
}

fn adamw_as_in_pytorch(backend: Backend) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adamw.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = |value: &serde_json::Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let names = ["matrix", "norm"];
    let array = |name: &str, value: &serde_json::Value| {
        let values: Vec<f32> = list(value).iter().map(|&x| x as f32).collect();
        let shape: Vec<i32> = list(&golden["shapes"][name]).iter().map(|&x| x as i32).collect();
        Array::from_slice(&values, &shape)
    };
    let mut parameters: Parameters =
        names.map(|name| (name.to_owned(), array(name, &golden["start"][name]))).into();
    let mut moments = BTreeMap::<&str, Moments>::new();
    for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let gradients = names.map(|name| array(name, &step["gradients"][name]));
        let norm = global_norm(backend, &gradients).unwrap();
        let found = f64::from(mlx_llamba::mlx::floats(&norm).unwrap()[0]);
        assert!((found / step["norm"].as_f64().unwrap() - 1.0).abs() < 1e-6);
        let factor = clip_factor(&norm, golden["clip"].as_f64()).unwrap();
        for (name, gradient) in names.into_iter().zip(gradients) {
            let time = (i as u64 + 1, step["lr"].as_f64().unwrap());
            let adamw = AdamW::default();
            let old = moments.get(name);
            let update = |backend: Backend| {
                let gradient = (&gradient, &factor);
                adamw.update(backend, &parameters[name], gradient, old, time, None).unwrap()
            };
            let AdamWResult { parameter: new, m, v, ahead } = update(backend);
            assert!(ahead.is_none());
            for (found, expected) in
                mlx_llamba::mlx::floats(&new).unwrap().iter().zip(list(&step["parameters"][name]))
            {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-6, "step {i}, {name}: {found}, not {expected}");
            }
            parameters.insert(name.to_owned(), new);
            moments.insert(name, Moments { m, v });
        }
    }
}

fn steps(options: &StageOptions, windows: &Windows, toy: &Toy) -> (Parameters, Vec<Vec<f32>>) {
    let mut state = State::new(toy.parameters(4096));
    let trainer = Trainer::new("toy", toy, windows, options, &state.parameters).unwrap();
    let losses = (0..options.steps()).map(|_| trainer.step(&mut state).unwrap().losses).collect();
    (state.parameters, losses)
}

#[test]
fn losses_fall_and_only_what_is_trained_changes() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let toy = Toy::new(2);
    let frozen = options("tokens = 1600\nfreeze = [\"layers.1.b\"]");
    let (parameters, losses) = steps(&frozen, &windows(&corpus, 8), &toy);
    assert_eq!((losses.len(), losses[0].len()), (50, 2));
    for part in 0..2 {
        assert!(losses[49][part] < 0.8 * losses[0][part], "{losses:?}");
    }
    let before = bits(&toy.parameters(4096));
    let changed = bits(&parameters).into_iter().zip(before).filter(|(a, b)| a != b);
    let changed: Vec<String> = changed.map(|(after, _)| after.0).collect();
    assert_eq!(changed, ["layers.0.b", "layers.0.w", "layers.1.w"]);
}

#[test]
fn gradients_of_small_batches_add_up_to_those_of_a_large_one() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let run = |text: &str| steps(&options(text), &windows(&corpus, 8), &Toy::new(2));
    let (whole, losses) = run("batch = 7\ntokens = 560");
    for micro in ["micro_batch = 1", "micro_batch = 3", "micro_batch = 7"] {
        let (parts, found) = run(&format!("batch = 7\ntokens = 560\n{micro}"));
        for (a, b) in losses.iter().flatten().zip(found.iter().flatten()) {
            assert!((a - b).abs() < 1e-5, "{micro}: {a} {b}");
        }
        for ((name, a), b) in whole.iter().zip(parts.values()) {
            let far = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap();
            let far = mlx_llamba::mlx::floats(&far).unwrap()[0];
            assert!(far < 1e-5, "{micro}, {name}: {far}");
        }
    }
    // The position moves by whole batches, and the batches differ.
    assert_ne!(bits(&whole), bits(&run("batch = 6\ntokens = 560").0));
}

/// However much of an update is computed at once, and whichever matrices Muon changes.
#[test]
fn updates_in_pieces_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let (windows, toy) = (windows(&corpus, 8), Toy::new(2));
    for text in ["batch = 3", "muon = [\"w\"]"] {
        let options = options(text);
        let run = |at_once: usize| {
            let mut state = State::new(toy.parameters(4096));
            let trainer = Trainer::new("toy", &toy, &windows, &options, &state.parameters).unwrap();
            let trainer = trainer.at_once(at_once);
            (0..5).for_each(|_| drop(trainer.step(&mut state).unwrap()));
            bits(&state.parameters)
        };
        assert_eq!(run(0), run(usize::MAX));
    }
}

#[test]
fn parts_updated_together_change_as_they_do_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let windows = windows(&corpus, 8);
    let toy = Toy::new(4);
    for text in [
        "clip = 0.05\nmuon = [\"w\"]\nmuon_rows = 4",
        "batch = 7\ntokens = 560\nmicro_batch = 3\nlr_factors = { \"layers.2.*\" = 0.5 }",
        "muon = [\"layers.*\"]\nlr_factors = { \"layers.2.*\" = 0.5 }",
    ] {
        let options = options(text);
        let run = |together: bool| {
            let mut state = State::new(toy.parameters(4096));
            let trainer = Trainer::new("toy", &toy, &windows, &options, &state.parameters).unwrap();
            let trainer = trainer.together(together);
            let steps = (0..options.steps()).map(|_| trainer.step(&mut state).unwrap());
            let (losses, norms): (Vec<_>, Vec<_>) =
                steps.map(|step| (step.losses, step.norm)).unzip();
            (state, losses, norms)
        };
        let (apart, losses, norms) = run(false);
        let (together, others, other_norms) = run(true);
        assert_eq!(others[0].len(), 4);
        for (a, b) in losses.iter().flatten().zip(others.iter().flatten()) {
            assert!((a - b).abs() < 1e-5, "{text}: {a} {b}");
        }
        for (a, b) in norms.iter().zip(&other_norms) {
            assert!((a - b).abs() < 1e-5, "{text}: {a} {b}");
        }
        let pairs = apart.parameters.iter().zip(together.parameters.values());
        for ((name, a), b) in pairs {
            let far = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap();
            let far = mlx_llamba::mlx::floats(&far).unwrap()[0];
            assert!(far < 1e-5, "{text}, {name}: {far}");
        }
        assert_eq!(apart.moments.len(), together.moments.len());

        // Begun before the step before is over, and resumed after it.
        let mut ahead = State::new(toy.parameters(4096));
        let trainer = Trainer::new("toy", &toy, &windows, &options, &ahead.parameters).unwrap();
        let trainer = trainer.together(true);
        let mut begun = Begun::default();
        for (i, (losses, norm)) in others.iter().zip(&other_norms).enumerate() {
            let step = trainer.step_on(&mut ahead, &mut begun, i % 3 != 2).unwrap();
            assert_eq!((&step.losses, &step.norm), (losses, norm), "{text}, step {i}");
        }
        assert_eq!(ahead.progress, together.progress);
        assert_eq!(bits(&ahead.parameters), bits(&together.parameters));
    }
}

#[test]
fn parts_are_independent() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let (both, _) = steps(&options("clip = 0.01"), &windows(&corpus, 8), &Toy::new(2));
    let (alone, _) = steps(
        &options("clip = 0.01\nfreeze = [\"layers.1.*\"]"),
        &windows(&corpus, 8),
        &Toy::new(2),
    );
    assert_eq!(bits(&both)[1..3], bits(&alone)[1..3]);
    assert_ne!(bits(&both)[3..], bits(&alone)[3..]);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let (toy, windows) = (Toy::new(1), windows(&corpus, 8));
    let mut parameters = toy.parameters(4096);
    let none = options("freeze = [\"*\"]");
    let error = Trainer::new("first", &toy, &windows, &none, &parameters).err().unwrap();
    assert!(matches!(error, Error::NothingToTrain { .. }), "{error}");
    parameters.remove("layers.0.w");
    let error = Trainer::new("first", &toy, &windows, &options(""), &parameters).err().unwrap();
    assert!(error.to_string().contains("no parameter layers.0.w"), "{error}");
}

/// A run of two stages in a directory, killed after `limit` steps of this call without a word.
struct Runs<'a> {
    directory: &'a Path,
    identity: Identity,
    toys: [Toy; 2],
    options: SessionOptions,
}

impl<'a> Runs<'a> {
    fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            identity: Identity::from([("seed".into(), json!(1)), ("lr".into(), json!(0.01))]),
            toys: [Toy::new(2), Toy::new(1)],
            options: SessionOptions::default().evaluate_every(4).checkpoint_every(3),
        }
    }

    fn run(&self, resume: bool, watch: OnEvent<'_>) -> Result<(Ending, Parameters)> {
        let data = tempfile::tempdir().unwrap();
        let corpus = corpus(data.path());
        let start = || Ok(self.toys[0].parameters(4096));
        let run = self.directory.join("run");
        let mut session = Session::open(&run, self.identity.clone(), self.options, resume, start)?;
        for (index, name) in ["first", "second"].into_iter().enumerate() {
            let windows = Windows::new(&corpus, 0..9, 8, true, &[1, index as u64])?;
            let options = options(["tokens = 320", "tokens = 224\nmicro_batch = 3"][index]);
            let stage = Stage {
                name,
                index,
                objective: &self.toys[index],
                options: &options,
                windows: &windows,
            };
            let mut evaluate = |_: &Parameters| Ok(None);
            if session.stage(&stage, &mut evaluate, watch)? == Ending::Stopped {
                return Ok((Ending::Stopped, session.state().parameters.clone()));
            }
        }
        Ok((Ending::Done, session.state().parameters.clone()))
    }

    fn steps_in_log(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.directory.join("run/log.jsonl")).unwrap();
        let step = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        };
        text.lines().map(step).collect()
    }

    fn checkpoints(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.directory.join("run")).unwrap();
        let mut names: Vec<String> =
            all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.contains("checkpoint"));
        names.sort();
        names
    }
}

fn go(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_run_stopped_anywhere_ends_with_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let whole = Runs::new(directory.path());
    let (ending, expected) = whole.run(false, &mut go).unwrap();
    assert_eq!(ending, Ending::Done);
    // 10 and 7 steps.
    assert_eq!(whole.steps_in_log(), (1..=17).collect::<Vec<u64>>());
    assert_eq!(whole.checkpoints(), ["checkpoint-00000016", "checkpoint-00000017"]);
    let svg = std::fs::read_to_string(directory.path().join("run/training.svg")).unwrap();
    assert!(svg.contains("first") && svg.contains("second"));
    // Done is done.
    let (ending, again) = whole.run(true, &mut |_| unreachable!("nothing is left")).unwrap();
    assert_eq!((ending, bits(&again)), (Ending::Done, bits(&expected)));

    for stop in 1..17 {
        let directory = tempfile::tempdir().unwrap();
        let runs = Runs::new(directory.path());
        let mut seen = 0;
        let mut stopping = |event: Event<'_>| {
            seen += u64::from(matches!(event, Event::Step { .. }));
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(runs.run(false, &mut stopping).unwrap().0, Ending::Stopped, "{stop}");
        assert_eq!(runs.steps_in_log().last(), Some(&stop));
        // Whatever a kill leaves half written.
        let run = directory.path().join("run");
        std::fs::create_dir(run.join(".checkpoint-00000099.partial")).unwrap();
        std::fs::write(run.join(".training.svg.12.partial"), "<svg").unwrap();
        let (ending, found) = runs.run(true, &mut go).unwrap();
        assert_eq!((ending, bits(&found)), (Ending::Done, bits(&expected)), "{stop}");
        assert_eq!(runs.steps_in_log(), (1..=17).collect::<Vec<u64>>());
        assert_eq!(runs.checkpoints(), whole.checkpoints());
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let runs = Runs::new(directory.path());
    let (_, expected) = runs.run(false, &mut go).unwrap();
    let newest = directory.path().join("run/checkpoint-00000017");
    let file = newest.join("state.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let (_, found) = runs.run(true, &mut go).unwrap();
    assert_eq!(bits(&found), bits(&expected));
    for name in runs.checkpoints() {
        std::fs::write(directory.path().join("run").join(name).join("state.json"), "{").unwrap();
    }
    let error = runs.run(true, &mut go).unwrap_err().to_string();
    assert!(error.contains("checkpoint-00000017"), "{error}");
}

#[test]
fn another_run_is_not_taken_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut runs = Runs::new(directory.path());
    let error = runs.run(true, &mut go).unwrap_err();
    assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
    runs.run(false, &mut |_| ControlFlow::Break(())).unwrap();
    let error = runs.run(false, &mut go).unwrap_err();
    assert!(matches!(error, Error::RunExists { .. }), "{error}");
    runs.identity.insert("lr".into(), json!(0.02));
    runs.identity.insert("data".into(), json!("x"));
    let error = runs.run(true, &mut go).unwrap_err().to_string();
    assert!(error.contains("lr was 0.01, is 0.02"), "{error}");
    assert!(error.contains("data was not set, is \"x\"") && !error.contains("seed"), "{error}");
}

#[test]
fn flipped_bits_of_a_checkpoint_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let runs = Runs::new(directory.path());
    runs.run(false, &mut go).unwrap();
    let run = directory.path().join("run");
    let checkpoints = Checkpoints::new(&run, 2);
    std::fs::remove_dir_all(run.join("checkpoint-00000016")).unwrap();
    for name in ["state.safetensors", "state.json"] {
        let file = run.join("checkpoint-00000017").join(name);
        let sound = std::fs::read(&file).unwrap();
        let mut flipped = sound.clone();
        for bit in (0..8 * sound.len()).step_by(8 * sound.len() / 61) {
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, &flipped).unwrap();
            let error = checkpoints.newest().map(drop).map_err(|error| error.to_string());
            assert!(error.is_err_and(|e| e.contains("checkpoint")), "{name}, bit {bit}");
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        std::fs::write(&file, &sound).unwrap();
        assert!(checkpoints.newest().unwrap().is_some());
    }
}

#[test]
fn a_checkpoint_without_checksums_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let runs = Runs::new(directory.path());
    let expected = runs.run(false, &mut go).unwrap().1;
    let run = directory.path().join("run");
    std::fs::remove_dir_all(run.join("checkpoint-00000017")).unwrap();
    let file = run.join("checkpoint-00000016/state.json");
    let mut state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for key in ["tensors_sha256", "sha256"] {
        assert!(state.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    std::fs::write(&file, format!("{state:#}")).unwrap();
    let (ending, again) = runs.run(true, &mut go).unwrap();
    assert_eq!((ending, bits(&again)), (Ending::Done, bits(&expected)));
    // A checksum that is cut off is damage, not an earlier version.
    let file = run.join("checkpoint-00000017/state.json");
    let text =
        std::fs::read_to_string(&file).unwrap().replace(",\n  \"sha256\"", ",\n  \"sha257\"");
    std::fs::write(&file, text).unwrap();
    assert!(
        Checkpoints::new(&run, 1).newest().is_ok_and(|found| {
            found.is_some_and(|(state, _)| state.progress.total_steps == 16)
        })
    );
}

#[test]
fn a_run_that_goes_wrong_stops_and_keeps_its_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut runs = Runs::new(directory.path());
    // The second stage begins well and meets a document that it cannot take.
    for (trap, expected) in [
        ((|_, _| f32::NAN) as fn(usize, &mlx_llamba_mohawk::Batch) -> f32, "loss is NaN"),
        (|_, _| f32::INFINITY, "loss is inf"),
    ] {
        runs.toys[1].trap = Some(trap);
        let resume = directory.path().join("run").exists();
        let error = runs.run(resume, &mut go).unwrap_err().to_string();
        for part in [expected, "stage second", "step 1", "layers.0.b"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(runs.checkpoints(), ["checkpoint-00000009", "checkpoint-00000010"]);
    }
    // With the cause gone, it goes on.
    runs.toys[1].trap = None;
    assert_eq!(runs.run(true, &mut go).unwrap().0, Ending::Done);
}
