//! A run: stages in sequence, with a log, a plot and checkpoints. It can be stopped anywhere and
//! resumed with the same result.

use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use mlx_llamba::files::atomic;

use super::log::{Log, Record};
use super::{Begun, Checkpoints, Identity, StageOptions, State, Step, Trainer, differences, plot};
use crate::data::Windows;
use crate::error::io;
use crate::evaluate::Metrics;
use crate::{Error, Objective, Parameters, Result};

/// The freed memory in bytes that MLX may keep for the next step. Without a limit it keeps all that
/// any step ever used, in sizes that other stages cannot use.
const CACHE: usize = 1 << 29;

/// The memory in bytes above which half of it may be such a cache, since the allocator of a large
/// GPU waits for all earlier work each time.
const LARGE: usize = 64 << 30;

/// Intervals of evaluations and checkpoints, which do not affect the result.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
pub struct SessionOptions {
    /// Steps between two evaluations; 0: only at the end of a stage.
    pub evaluate_every: u64,
    /// Steps between two checkpoints; 0: only at the end of a stage.
    pub checkpoint_every: u64,
    /// The number of checkpoints to keep.
    pub keep: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { evaluate_every: 100, checkpoint_every: 100, keep: 2 }
    }
}

/// A stage of a run.
#[derive(Debug)]
pub struct Stage<'a, O> {
    /// Its name in messages.
    pub name: &'a str,
    /// Its number among the stages of the run, counted from 0.
    pub index: usize,
    /// The loss.
    pub objective: &'a O,
    /// The options.
    pub options: &'a StageOptions,
    /// The text.
    pub windows: &'a Windows,
}

/// An event of a run, at which the caller can stop it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// The stage's name.
        stage: &'a str,
        /// The run after it.
        state: &'a State,
        /// The number of steps of this stage.
        of: u64,
        /// The losses and figures of the step.
        step: &'a Step,
    },
    /// Held-out text was read.
    Evaluation {
        /// The stage's name.
        stage: &'a str,
        /// The state that was evaluated.
        state: &'a State,
        /// The result.
        metrics: &'a Metrics,
    },
    /// A checkpoint is on disk.
    Checkpoint(&'a Path),
}

/// Receives what happens in a stage; [`ControlFlow::Break`] stops the training after a checkpoint.
pub type OnEvent<'a> = &'a mut (dyn FnMut(Event<'_>) -> ControlFlow<()> + Send);

/// The end of a stage or of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is done.
    Done,
    /// The caller stopped it; a checkpoint was written.
    Stopped,
}

/// Locks the directory for this process.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(".lock");
    let file = File::create(&path).map_err(io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { path: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
    }
}

/// Removes files that a killed run left incomplete.
fn sweep(directory: &Path) -> Result<()> {
    atomic::sweep(directory).map_err(io("list", directory))?;
    for entry in std::fs::read_dir(directory).map_err(io("list", directory))? {
        let path = entry.map_err(io("list", directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = [".checkpoint-", ".log.jsonl.", ".training.svg."];
        if name.ends_with(".partial") && ours.iter().any(|prefix| name.starts_with(prefix)) {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            removed.map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// A run in its directory: `log.jsonl`, `training.svg`, and `checkpoint-STEP`.
#[derive(Debug)]
pub struct Session {
    directory: PathBuf,
    options: SessionOptions,
    checkpoints: Checkpoints,
    identity: Identity,
    log: Log,
    state: State,
    /// Held until the end, so that no other process writes here.
    _lock: File,
}

impl Session {
    /// Checks that a run can begin or be resumed in `directory`, before anything else is done.
    ///
    /// # Errors
    /// [`Error::RunExists`], [`Error::NothingToResume`], [`mlx_llamba::Error::Io`].
    pub fn expect(directory: &Path, resume: bool) -> Result<()> {
        let path = || directory.to_owned();
        match (Checkpoints::new(directory, 1).is_empty()?, resume) {
            (true, true) => Err(Error::NothingToResume { path: path() }),
            (false, false) => Err(Error::RunExists { path: path() }),
            _ => Ok(()),
        }
    }

    /// Removes the run in `directory`, if there is one: its checkpoints, log and plot.
    ///
    /// # Errors
    /// [`Error::Busy`], [`mlx_llamba::Error::Io`].
    pub fn remove(directory: &Path) -> Result<()> {
        let _lock = lock(directory)?;
        Checkpoints::new(directory, 1).remove()?;
        for name in ["log.jsonl", "training.svg"] {
            let path = directory.join(name);
            if path.exists() {
                std::fs::remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Begins a run in `directory`, or continues the one there if `resume` is set. `start` returns
    /// the parameters of a new run.
    ///
    /// # Errors
    /// [`Error::RunExists`] if there is one and `resume` is not set; [`Error::NothingToResume`];
    /// [`Error::OtherRun`] lists the differences from `identity`; [`Error::Checkpoint`];
    /// [`Error::Busy`]; [`mlx_llamba::Error::Io`]; and the errors of `start`.
    pub fn open(
        directory: &Path,
        identity: Identity,
        options: SessionOptions,
        resume: bool,
        start: impl FnOnce() -> Result<Parameters>,
    ) -> Result<Self> {
        Self::expect(directory, resume)?;
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        let lock = lock(directory)?;
        let checkpoints = Checkpoints::new(directory, options.keep);
        let state = if resume {
            let Some((state, saved)) = checkpoints.newest()? else {
                return Err(Error::NothingToResume { path: directory.to_owned() });
            };
            let differences = differences(&saved, &identity);
            if !differences.is_empty() {
                return Err(Error::OtherRun { path: directory.to_owned(), differences });
            }
            checkpoints.forget_after(state.progress.total_steps)?;
            state
        } else {
            State::new(start()?)
        };
        sweep(directory)?;
        let log = Log::open(&directory.join("log.jsonl"), state.progress.total_steps)?;
        let memory = mlx_rs::memory::memory_limit().unwrap_or(0);
        let cache = if memory >= LARGE { memory / 2 } else { CACHE };
        let _ = mlx_rs::memory::set_cache_limit(cache);
        let directory = directory.to_owned();
        let session = Self { directory, options, checkpoints, identity, log, state, _lock: lock };
        if !resume {
            // From here on a run that is killed can be resumed.
            session.checkpoint()?;
        }
        Ok(session)
    }

    /// The state of the run.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs the rest of a stage; a finished stage is skipped.
    ///
    /// `evaluate` measures parameters on held-out text; `watch` receives all events and can stop the
    /// run after a step.
    ///
    /// # Errors
    /// As for [`Trainer::step`], and [`mlx_llamba::Error::Io`] if something cannot be written. The last
    /// checkpoint is kept.
    pub fn stage<O: Objective>(
        &mut self,
        stage: &Stage<'_, O>,
        evaluate: &mut dyn FnMut(&Parameters) -> Result<Option<Metrics>>,
        watch: OnEvent<'_>,
    ) -> Result<Ending> {
        if stage.index < self.state.progress.stage {
            return Ok(Ending::Done);
        }
        let Stage { name, options, .. } = *stage;
        let parameters = &self.state.parameters;
        let trainer = Trainer::new(name, stage.objective, stage.windows, options, parameters)?;
        let of = options.steps();
        let mut begun = Begun::default();
        while self.state.progress.step < of {
            let more = self.state.progress.step + 1 < of;
            let step = trainer.step_on(&mut self.state, &mut begun, more)?;
            self.log.push(&self.record(name, &step))?;
            let done = self.state.progress.step;
            let stop = watch(Event::Step { stage: name, state: &self.state, of, step: &step });
            let due = |every: u64| every > 0 && done.is_multiple_of(every);
            if done < of && due(self.options.evaluate_every) && stop.is_continue() {
                self.evaluate(name, evaluate, watch)?;
            }
            if done < of && (stop.is_break() || due(self.options.checkpoint_every)) {
                let path = self.checkpoint()?;
                let _ = watch(Event::Checkpoint(&path));
            }
            if done < of && stop.is_break() {
                return Ok(Ending::Stopped);
            }
            if done == of {
                return self.finish(name, stop, evaluate, watch);
            }
        }
        self.finish(name, ControlFlow::Continue(()), evaluate, watch)
    }

    /// Ends a stage with an evaluation and a checkpoint, from which the next one begins.
    fn finish(
        &mut self,
        name: &str,
        stop: ControlFlow<()>,
        evaluate: &mut dyn FnMut(&Parameters) -> Result<Option<Metrics>>,
        watch: OnEvent<'_>,
    ) -> Result<Ending> {
        self.evaluate(name, evaluate, watch)?;
        self.state.next_stage();
        let path = self.checkpoint()?;
        let _ = watch(Event::Checkpoint(&path));
        let _ = mlx_rs::memory::clear_cache();
        Ok(if stop.is_break() { Ending::Stopped } else { Ending::Done })
    }

    fn checkpoint(&self) -> Result<PathBuf> {
        self.checkpoints.save(&self.state, &self.identity)
    }

    fn evaluate(
        &mut self,
        stage: &str,
        evaluate: &mut dyn FnMut(&Parameters) -> Result<Option<Metrics>>,
        watch: OnEvent<'_>,
    ) -> Result<()> {
        if let Some(metrics) = evaluate(&self.state.parameters)? {
            let record = Record { held_out: Some(metrics), ..self.place(stage) };
            self.log.push(&record)?;
            let _ = watch(Event::Evaluation { stage, state: &self.state, metrics: &metrics });
        }
        let picture = plot(&self.log.records()?)?;
        let path = self.directory.join("training.svg");
        atomic::write(&path, picture.as_bytes()).map_err(io("write", &path))
    }

    /// Returns an empty record of the current step.
    fn place(&self, stage: &str) -> Record {
        let progress = &self.state.progress;
        Record {
            step: progress.total_steps,
            stage: stage.to_owned(),
            tokens: progress.tokens,
            ..Record::default()
        }
    }

    fn record(&self, stage: &str, step: &Step) -> Record {
        Record {
            loss: Some(step.loss()),
            losses: if step.losses.len() > 1 { step.losses.clone() } else { Vec::new() },
            lr: Some(step.lr),
            norm: Some(step.norm),
            tokens_per_second: Some(step.tokens as f64 / step.seconds.max(1e-9)),
            ..self.place(stage)
        }
    }
}
