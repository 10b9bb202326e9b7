//! The check of a back end's kernels on this machine, when a model is loaded.
//!
//! Kernels for GPUs run on hardware, drivers and compilers that no test has seen. At load each
//! kernel that the model will use is compared once with its definition, at the model's own sizes and
//! dtypes. One that fails to compile, or gives other numbers, is replaced by plain MLX operations,
//! with a warning. The verdict is kept in a directory for this GPU, system, MLX and program, so that
//! later loads take no time.
//!
//! A kernel that never returns is named in a file before it is launched; after two such runs it is
//! not launched again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use mlx_llamba_kernels::check::{self, Check, FLOAT32, Matrix, Outcome};
use mlx_llamba_kernels::mlx::{Runtime, gpu_name};
use mlx_llamba_kernels::{Backend, Kernel, Weight};
use mlx_rs::{DeviceType, Dtype};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files::{AtomicFile, hash};
use crate::mlx::current_device;

/// The largest error of float32 kernels here. They need not round as on the GPUs that they were
/// tested on; a mistake is larger than this.
const TOLERANCE: f64 = 10.0 * FLOAT32;

/// Runs after which a check that never returned is not tried again.
const ATTEMPTS: usize = 2;

/// The loads that check kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Every load, on CPUs too.
    Always,
    /// The first load on a GPU; later ones take the verdict from the directory.
    #[default]
    Once,
    /// None.
    Never,
}

/// Options of the check.
#[non_exhaustive]
#[derive(Debug, Clone, Default, Setters)]
#[setters(into, strip_option)]
pub struct KernelCheck {
    /// The loads that check.
    pub when: When,
    /// The directory of the verdicts. Default: `mlx-llamba` in the system's directory for caches.
    pub directory: Option<PathBuf>,
}

/// A verdict, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    machine: Machine,
    /// The checks that failed: the kernel's name and the row of the table.
    failed: Vec<(String, String)>,
}

/// Everything that a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The version of this library.
    pub program: String,
    /// The version of MLX.
    pub mlx: String,
    /// The back end.
    pub backend: String,
    /// The name of the GPU, if there is one.
    pub gpu: Option<String>,
    /// The system and its build.
    pub system: String,
    /// The names of the checks.
    #[serde(default)]
    pub checks: Vec<String>,
}

impl Machine {
    /// Describes this machine and a back end; without checks.
    pub fn new(backend: Backend) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            mlx: Runtime::of_process().version,
            backend: backend.describe(),
            gpu: gpu_name(),
            system: system(),
            checks: Vec::new(),
        }
    }
}

impl KernelCheck {
    /// Checks the kernels of `backend` and returns it without those that fail. `checks` lists the
    /// operations of a model.
    ///
    /// A directory that cannot be read or written only costs time: the check is made again.
    ///
    /// # Errors
    /// MLX's report of its device, and errors of `checks`.
    pub fn apply(
        &self,
        backend: Backend,
        checks: impl FnOnce() -> Result<Vec<Check>>,
    ) -> Result<Backend> {
        let gpu = matches!(current_device()?, DeviceType::Gpu);
        if self.when == When::Never || (self.when == When::Once && !gpu) {
            return Ok(backend);
        }
        Ok(self.verdict(backend, &checks()?))
    }

    /// Returns the back end without the kernels that fail, by an old verdict or a new one.
    fn verdict(&self, backend: Backend, checks: &[Check]) -> Backend {
        let checks: Vec<&Check> = checks.iter().filter(|check| check.applies(backend)).collect();
        if checks.is_empty() {
            return backend;
        }
        let mut machine = Machine::new(backend);
        machine.checks = checks.iter().map(ToString::to_string).collect();
        let file = self.directory.clone().or_else(directory).map(|directory| {
            let text = serde_json::to_vec(&machine).unwrap_or_default();
            directory.join(format!("kernels-{}.json", &hash::sha256(text)[..16]))
        });
        let known = file.as_deref().filter(|_| self.when == When::Once);
        let known = known.and_then(read).filter(|verdict| verdict.machine == machine);
        let verdict = known.unwrap_or_else(|| {
            let failed = self.run(backend, &checks, file.as_deref());
            let rows = failed.iter().map(|o| (o.kernel.name().to_owned(), o.to_string()));
            let verdict = Verdict { machine, failed: rows.collect() };
            if let Some(file) = &file
                && let Err(error) = write(file, &verdict)
            {
                log::info!("the verdict on the kernels is not kept: {}: {error}", file.display());
            }
            verdict
        });
        if verdict.failed.is_empty() {
            return backend;
        }
        let rows: Vec<&str> = verdict.failed.iter().map(|(_, row)| row.as_str()).collect();
        log::warn!(
            "{} fail on this machine; plain MLX operations, which are slower, take their place. \
             Please report this with the output of `mlx-llamba doctor --kernels`:\n{}\n{}",
            backend.describe(),
            check::HEADING,
            rows.join("\n")
        );
        let is_off = |kernel: &Kernel| verdict.failed.iter().any(|(name, _)| name == kernel.name());
        let failed = Kernel::ALL.into_iter().filter(is_off);
        backend.without(backend.switched_off().iter().chain(failed).collect())
    }

    /// Runs the checks and returns those that fail. `file` is that of the verdict.
    fn run(&self, backend: Backend, checks: &[&Check], file: Option<&Path>) -> Vec<Outcome> {
        let mut journal = file.and_then(|file| Journal::open(&file.with_extension("running")).ok());
        if let Some(journal) = journal.as_mut().filter(|_| self.when == When::Always) {
            journal.begun.clear();
        }
        log::info!(
            "checking the {} on this machine, in {} cases",
            backend.describe(),
            checks.len()
        );
        let mut failed = Vec::new();
        for check in checks {
            let name = check.to_string();
            log::debug!("checking the kernel: {name}");
            let hung = journal.as_mut().is_some_and(|journal| !journal.begin(&name));
            let outcome = if hung {
                check.failed(format!("it did not end in {ATTEMPTS} earlier runs"))
            } else {
                check.run(backend, TOLERANCE)
            };
            log::debug!("{outcome}");
            if let Some(journal) = &mut journal {
                journal.end();
            }
            failed.extend(Some(outcome).filter(|outcome| !outcome.passed()));
        }
        if let Some(journal) = journal {
            journal.remove();
        }
        failed
    }
}

/// The checks that were begun and did not end, in a file that this process has locked.
struct Journal {
    file: File,
    path: PathBuf,
    /// Those of earlier runs.
    begun: Vec<String>,
}

impl Journal {
    /// Opens the file. Fails if another process checks the same kernels at this moment.
    fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        file.try_lock()?;
        let mut text = String::new();
        (&mut file).take(1 << 20).read_to_string(&mut text)?;
        let begun = text.lines().map(ToOwned::to_owned).collect();
        Ok(Self { file, path: path.to_owned(), begun })
    }

    /// Notes that a check begins. Returns false if it never ended before.
    fn begin(&mut self, name: &str) -> bool {
        let hung = self.begun.iter().filter(|begun| *begun == name).count() >= ATTEMPTS;
        if !hung {
            self.rewrite(Some(name));
        }
        !hung
    }

    /// Notes that it has ended.
    fn end(&mut self) {
        self.rewrite(None);
    }

    fn rewrite(&mut self, running: Option<&str>) {
        let lines = self.begun.iter().map(String::as_str).chain(running);
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(text.as_bytes()));
        if let Err(error) = written {
            log::debug!("{}: {error}", self.path.display());
        }
    }

    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns the name of the system and its build.
fn system() -> String {
    let system = rustix::system::uname();
    let parts = [system.sysname(), system.release(), system.version(), system.machine()];
    parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
}

/// Lists the operations of a layer of a model: norms of `width`, an MLP of `hidden`, products with
/// `weights`.
pub fn layers<'w>(
    dtype: Dtype,
    width: usize,
    hidden: usize,
    weights: impl IntoIterator<Item = &'w Weight>,
) -> Vec<Check> {
    let mut all = Vec::new();
    for rows in [1, 40] {
        all.push(Check::Swiglu { rows, width: hidden, dtype });
        all.extend([false, true].map(|residual| Check::Norm { residual, rows, width, dtype }));
    }
    all.extend(products(dtype, weights));
    all
}

/// Lists products with `weights`, once for each size: one row, a few, and a prompt.
pub fn products<'w>(
    dtype: Dtype,
    weights: impl IntoIterator<Item = &'w Weight>,
) -> impl Iterator<Item = Check> {
    let mut all = BTreeMap::new();
    for weight in weights {
        for rows in [1, 5, 33] {
            let check = Check::Matmul { rows, matrix: Matrix::Given(weight.clone()), dtype };
            all.insert(check.to_string(), check);
        }
    }
    all.into_values()
}

/// Returns the directory of verdicts: `mlx-llamba` in the system's directory for caches.
fn directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let of_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    let place = variable("XDG_CACHE_HOME").map(PathBuf::from);
    Some(place.or_else(|| Some(PathBuf::from(variable("HOME")?).join(of_home)))?.join("mlx-llamba"))
}

/// Reads a verdict; `None` if there is none that can be used.
fn read(file: &Path) -> Option<Verdict> {
    let mut text = Vec::new();
    crate::files::open_file(file).ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes a verdict for its owner alone.
fn write(file: &Path, verdict: &Verdict) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let mut output = AtomicFile::private(file)?;
    output.write_all(&serde_json::to_vec_pretty(verdict)?)?;
    output.publish()
}

#[cfg(test)]
mod tests;
