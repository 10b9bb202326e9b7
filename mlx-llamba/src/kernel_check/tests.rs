#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use mlx_llamba_kernels::check::Case;
use mlx_rs::Array;

use super::*;
use crate::mlx::{floats, is_available};
use crate::model::Model;
use crate::state::State;

const FLOAT: Dtype = Dtype::Float32;

fn checks() -> Vec<Check> {
    let mixer = |l| Check::Mixer(Case::new([2, 1, 4, 8, 3], 1, l));
    vec![mixer(1), mixer(5), Check::Swiglu { rows: 1, width: 8, dtype: FLOAT }]
}

fn once(directory: &Path) -> KernelCheck {
    KernelCheck::default().directory(directory)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Makes these kernels those that failed in the only verdict of a directory.
fn rewrite(directory: &Path, failed: &[Kernel], row: &str) {
    let file = &files(directory)[0];
    let mut verdict = read(file).unwrap();
    verdict.failed = failed.iter().map(|k| (k.name().to_owned(), row.to_owned())).collect();
    write(file, &verdict).unwrap();
}

#[test]
fn a_verdict_is_kept_for_its_owner_and_used() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("new");
    let check = once(&directory);
    assert_eq!(check.verdict(Backend::CPU, &checks()), Backend::CPU);
    let file = &files(&directory)[..];
    assert_eq!(file.len(), 1, "{file:?}");
    assert_eq!(fs::metadata(&file[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let stored = read(&file[0]).unwrap().machine;
    assert_eq!(stored.program, env!("CARGO_PKG_VERSION"));
    assert_eq!(stored.checks[2], "swiglu Float32 1 x 8");
    assert!(stored.system.len() > 10 && stored.mlx.starts_with("0."), "{stored:?}");

    // The stored verdict decides, not another run.
    rewrite(&directory, &[Kernel::Swiglu], "a row");
    let without = Backend::CPU.without([Kernel::Swiglu].into_iter().collect());
    assert_eq!(check.verdict(Backend::CPU, &checks()), without);
    // Other checks, and another back end, have verdicts of their own.
    assert_eq!(check.verdict(Backend::CPU, &checks()[1..]), Backend::CPU);
    assert_eq!(check.verdict(Backend::CPU_INT8, &checks()), Backend::CPU_INT8);
    assert_eq!(files(&directory).len(), 3);
    // Always runs anew and replaces it.
    let always = once(&directory).when(When::Always);
    assert_eq!(always.verdict(Backend::CPU, &checks()), Backend::CPU);
    assert_eq!(check.verdict(Backend::CPU, &checks()), Backend::CPU);
}

#[test]
fn checks_are_for_gpus_unless_all_are_wanted() {
    let place = tempfile::tempdir().unwrap();
    let when = |when| once(place.path()).when(when).apply(Backend::CPU, || Ok(checks())).unwrap();
    let gpu = matches!(current_device().unwrap(), DeviceType::Gpu);
    for (mode, expected) in [(When::Never, 0), (When::Once, usize::from(gpu)), (When::Always, 1)] {
        assert_eq!(when(mode), Backend::CPU);
        assert_eq!(files(place.path()).len(), expected, "{mode:?}");
    }
    // Plain operations have no kernels.
    assert_eq!(once(place.path()).verdict(Backend::PLAIN, &checks()), Backend::PLAIN);
}

#[test]
fn damage_and_other_machines_are_checked_again() {
    let place = tempfile::tempdir().unwrap();
    let check = once(place.path());
    check.verdict(Backend::CPU, &checks());
    rewrite(place.path(), &[Kernel::Swiglu], "a row");
    let file = &files(place.path())[0];
    let text = fs::read_to_string(file).unwrap();
    let version = format!("\"program\": \"{}\"", env!("CARGO_PKG_VERSION"));
    for other in ["", "{", "[]", &text[..40], &text.replace(&version, "\"program\": \"0.0.1\"")] {
        assert_ne!(other, text);
        fs::write(file, other).unwrap();
        assert_eq!(check.verdict(Backend::CPU, &checks()), Backend::CPU, "{other}");
        assert!(read(file).unwrap().failed.is_empty(), "{other}");
    }
}

#[test]
fn a_directory_that_cannot_be_used_costs_only_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for directory in [file.path().to_owned(), file.path().join("below")] {
        assert_eq!(once(&directory).verdict(Backend::CPU, &checks()), Backend::CPU);
    }
}

/// A pipe in the place of a verdict, or of the file of the check that runs, is not waited for.
#[test]
fn pipes_are_no_verdicts() {
    let place = tempfile::tempdir().unwrap();
    let check = once(place.path());
    check.verdict(Backend::CPU, &checks());
    let verdict = files(place.path()).remove(0);
    fs::remove_file(&verdict).unwrap();
    for file in [&verdict, &verdict.with_extension("running")] {
        assert!(std::process::Command::new("mkfifo").arg(file).status().unwrap().success());
    }
    assert_eq!(check.verdict(Backend::CPU, &checks()), Backend::CPU);
}

/// Keeps the warnings of this process.
struct Warnings;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            WARNINGS.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn one_warning_says_what_to_report() {
    log::set_logger(&Warnings).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let place = tempfile::tempdir().unwrap();
    let check = once(place.path());
    let checks = [Check::Norm { residual: true, rows: 3, width: 5, dtype: FLOAT }];
    check.verdict(Backend::CPU, &checks);
    let ours = |warnings: &[String]| {
        let ours = warnings.iter().filter(|text| text.contains("an unlikely row"));
        ours.cloned().collect::<Vec<_>>()
    };
    assert_eq!(ours(&WARNINGS.lock().unwrap()), [""; 0]);
    rewrite(place.path(), &[Kernel::AddRmsNorm, Kernel::Swiglu], "an unlikely row");
    check.verdict(Backend::CPU, &checks);
    let warnings = ours(&WARNINGS.lock().unwrap());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["CPU kernels (", "mlx-llamba doctor --kernels", "error    bound", "plain MLX"] {
        assert!(warnings[0].contains(part), "{part}: {}", warnings[0]);
    }
    assert_eq!(warnings[0].matches("an unlikely row").count(), 2);
}

/// A check that two runs began and none ended is not begun again; one is tried once more.
#[test]
fn a_kernel_that_never_returns_is_launched_twice_at_most() {
    let place = tempfile::tempdir().unwrap();
    let check = once(place.path());
    check.verdict(Backend::CPU, &checks());
    let file = files(place.path()).remove(0);
    let journal = file.with_extension("running");
    let name = checks()[0].to_string();
    for (lines, off) in [(1, false), (2, true)] {
        fs::remove_file(&file).unwrap();
        fs::write(&journal, format!("{name}\n").repeat(lines)).unwrap();
        let backend = check.verdict(Backend::CPU, &checks());
        assert_eq!(backend.switched_off().contains(Kernel::MixerStep), off, "{lines}");
        assert_eq!(backend.switched_off().iter().count(), usize::from(off));
        assert!(!journal.exists(), "nothing is running any more");
    }
    assert!(read(&file).unwrap().failed[0].1.contains("did not end in 2 earlier runs"));
    // It is tried again if that is wanted.
    fs::write(&journal, format!("{name}\n").repeat(2)).unwrap();
    let always = once(place.path()).when(When::Always);
    assert_eq!(always.verdict(Backend::CPU, &checks()), Backend::CPU);
}

#[test]
fn the_check_that_runs_is_named_in_a_file_before_it_is_launched() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("kernels.running");
    fs::write(&path, "an old one\n").unwrap();
    let mut journal = Journal::open(&path).unwrap();
    assert!(Journal::open(&path).is_err(), "one process at a time");
    assert!(journal.begin("a new one"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "an old one\na new one\n");
    journal.end();
    assert_eq!(fs::read_to_string(&path).unwrap(), "an old one\n");
    // The process is killed while a check runs; so is the next.
    for _ in 0..2 {
        assert!(journal.begin("a new one"));
        drop(journal);
        journal = Journal::open(&path).unwrap();
    }
    assert!(!journal.begin("a new one"));
}

/// The kernels for Metal fail where there is no Metal: with them a model works all the same.
#[test]
fn a_model_whose_kernels_fail_computes_in_plain_operations() {
    let place = tempfile::tempdir().unwrap();
    let checkpoint = crate::embedded::checkpoint().unwrap();
    let model = |backend| Model::with_backend(&checkpoint, FLOAT, backend).unwrap();
    let always = once(place.path()).when(When::Always);
    let broken = model(Backend::METAL);
    let backend = always.verdict(Backend::METAL, &broken.kernel_checks());
    let metal = is_available(DeviceType::Gpu).unwrap();
    assert_eq!(backend.switched_off().iter().count(), if metal { 0 } else { 6 });

    let logits = |model: &Model| {
        let tokens = Array::from_slice(&[1_u32, 5, 7, 9], &[1, 4]);
        let state: State = model.state(1).unwrap();
        let (logits, state) = model.forward(&tokens, None, &state)?;
        let state = floats(&state.layers()[0].ssm)?;
        Ok::<_, crate::Error>([floats(&logits)?, state])
    };
    assert_eq!(logits(&broken).is_ok(), metal);
    let [found, expected] =
        [backend, Backend::PLAIN].map(|backend| logits(&model(backend)).unwrap());
    for (found, expected) in found.iter().zip(&expected) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= if metal { 1e-3 } else { 0.0 }, "{f} {e}");
        }
    }
}

#[test]
fn the_kernels_of_a_model_are_checked_at_its_own_sizes() {
    let checkpoint = crate::embedded::checkpoint().unwrap();
    let model = Model::with_backend(&checkpoint, FLOAT, Backend::CPU).unwrap();
    let checks = model.kernel_checks();
    let names: Vec<String> = checks.iter().map(ToString::to_string).collect();
    for name in &names {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
    let own = checks.iter().filter(|check| check.applies(Backend::CPU));
    let kernels = own.map(Check::kernel).collect::<mlx_llamba_kernels::Kernels>();
    assert_eq!(kernels, Backend::CPU.kernels());
    let config = model.config();
    for wanted in [
        format!("swiglu Float32 1 x {}", config.mlp.intermediate_size),
        format!("residual norm Float32 40 x {}", config.d_model),
        format!("{} by {}", config.d_model, config.padded_vocab()),
    ] {
        assert!(names.iter().any(|name| name.contains(&wanted)), "{wanted}: {names:#?}");
    }
    let place = tempfile::tempdir().unwrap();
    let always = once(place.path()).when(When::Always);
    assert_eq!(always.verdict(Backend::CPU, &checks), Backend::CPU);
}
