//! `mlx-llamba doctor --kernels`

use anyhow::{Result, bail};
use mlx_llamba::Compute;
use mlx_llamba::kernel_check::Machine;
use mlx_llamba::kernels::Backend;
use mlx_llamba::kernels::check::{FLOAT32, HEADING, Outcome, all, memory_speed};
use mlx_rs::Dtype;
use serde_json::{Value, json};

use crate::output::show;

/// Checks the kernels of this machine, of the cases whose names contain all `words`, and prints a
/// table that can be pasted into a report.
pub(super) fn table(words: &[String], as_json: bool) -> Result<()> {
    Compute::Auto.select()?;
    let backend = Backend::select(Dtype::Float32)?;
    let machine = Machine::new(backend);
    let memory = memory_speed().unwrap_or(0.0);
    if !as_json {
        show(&format!("{}\n{HEADING}\n", heading(&machine, memory)))?;
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for check in all().iter().filter(|check| check.applies(backend)) {
        let name = check.to_string();
        if words.iter().all(|word| name.contains(word.as_str())) {
            log::info!("{name}");
            let outcome = check.run(backend, FLOAT32);
            if !as_json {
                show(&format!("{outcome}\n"))?;
            }
            outcomes.push(outcome);
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if as_json {
        let rows: Vec<Value> = outcomes.iter().map(row).collect();
        let all = json!({ "ok": failed == 0, "machine": machine, "memory_bytes_per_second": memory, "cases": rows });
        show(&format!("{all:#}\n"))?;
    }
    match (failed, outcomes.len()) {
        (_, 0) if backend.kernels().iter().next().is_none() => {
            bail!("there are no kernels to check: this machine uses {}", backend.describe())
        }
        (_, 0) => bail!("no case has all of these words: {}", words.join(" ")),
        (0, _) if as_json => Ok(()),
        (0, of) => show(&format!("\nwithin their bounds: {of} of {of}\n")),
        (failed, of) => bail!(
            "{failed} of {of} errors are above their bounds; please report this table at {}/issues",
            env!("CARGO_PKG_REPOSITORY")
        ),
    }
}

/// Describes this machine for a report, with the bytes that its memory copies per second.
pub(crate) fn heading(machine: &Machine, memory: f64) -> String {
    let Machine { program, mlx, backend, gpu, system, .. } = machine;
    let gpu = gpu.as_ref().map_or(String::new(), |gpu| format!(", {gpu}"));
    let memory = memory * 1e-9;
    format!("mlx-llamba {program}, MLX {mlx}, {backend}{gpu}\n{system}\nmemory {memory:.0} GB/s\n")
}

fn row(outcome: &Outcome) -> Value {
    let Outcome { case, error, bound, time, failure, .. } = outcome;
    json!({
        "case": case,
        "kernel": outcome.kernel.name(),
        "error": error.is_finite().then_some(error),
        "bound": bound,
        "microseconds": time.as_secs_f64() * 1e6,
        "bytes_per_second": outcome.bytes_per_second(),
        "failure": failure,
        "passed": outcome.passed(),
    })
}
