//! Shared by `distill` and `train`: options of the recipe, and the display of a run.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mlx_llamba::mlx::DeviceType;
use mlx_llamba::units::{self, count};
use mlx_llamba_mohawk::evaluate::Metrics;
use mlx_llamba_mohawk::recipe::builtin;
use mlx_llamba_mohawk::run::{Note, OnNote, Outcome};
use mlx_llamba_mohawk::train::{Ending, Event, State, Step};

use crate::doctor::memory;
use crate::interrupt;
use crate::output::show;
use crate::progress::{Progress, Unit};

/// The options that choose a recipe and change it.
#[derive(clap::Args)]
pub(crate) struct RecipeArgs {
    /// Recipe: a file, or the name of a built-in one (see distill --print-recipe)
    #[arg(short, long, value_name = "FILE OR NAME", hide_env = true)]
    config: Option<String>,
    /// Change a key of the recipe; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Total token budget, split between stages as in the recipe
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<u64>,
    /// Random seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Sequences per step, in every stage
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Sequences in memory at a time, in every stage
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// Tokens per sequence, in every stage
    #[arg(long, value_name = "N")]
    length: Option<usize>,
    /// Continue the run in the output directory
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace the run and the model in the output directory
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Directory for the tokenized text [default: the output directory]
    #[arg(long, value_name = "DIR", hide_env = true)]
    pub(crate) cache: Option<PathBuf>,
}

impl RecipeArgs {
    /// Returns the name of the recipe for error messages, and its text.
    pub(crate) fn read(&self, default: &str) -> Result<(String, String)> {
        let name = self.config.as_deref().unwrap_or(default);
        let path = Path::new(name);
        if !path.exists() && path.extension().is_none() {
            return Ok((format!("recipe {name}"), builtin(name)?.to_owned()));
        }
        let text =
            mlx_llamba::files::read_text(path).with_context(|| format!("cannot read {name}"))?;
        Ok((name.to_owned(), text))
    }

    /// Returns the changes for these tables of the recipe.
    pub(crate) fn stage_changes<'a>(
        &self,
        tables: impl Iterator<Item = &'a str>,
    ) -> impl Iterator<Item = String> {
        let numbers =
            [("batch", self.batch), ("micro_batch", self.micro_batch), ("length", self.length)];
        let of_table = move |table: &'a str| {
            let set = numbers.iter().filter_map(|&(key, value)| Some((key, value?)));
            set.map(|(key, value)| format!("{table}.{key}={value}")).collect::<Vec<_>>()
        };
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        seed.into_iter().chain(tables.flat_map(of_table).collect::<Vec<_>>())
    }
}

/// Bytes of memory that a run may use: all of the machine's, where models are in its memory.
pub(crate) fn memory(device: DeviceType) -> Option<u64> {
    let shared = matches!(device, DeviceType::Cpu) || cfg!(target_os = "macos");
    memory::of_machine().filter(|_| shared).map(|memory| memory.total)
}

/// Seconds between two progress lines where there is no terminal.
const INTERVAL: u64 = 30;

/// Shows a run in lines on standard output. Progress is a bar where standard error is a terminal,
/// and a line every half minute elsewhere.
pub(crate) struct Display {
    tokenizing: Progress,
    bar: Option<(String, ProgressBar)>,
    /// The last progress line.
    line: Option<Instant>,
    /// Estimated seconds of the stages that have not begun.
    later: Vec<(&'static str, f64)>,
    steps: u64,
    failed: Option<anyhow::Error>,
}

impl Display {
    /// Runs `work` and shows its progress and its outcome. Ctrl-C stops it after a step.
    pub(crate) fn follow(
        what: &str,
        output: &Path,
        work: impl FnOnce(OnNote<'_>) -> mlx_llamba_mohawk::Result<Outcome>,
    ) -> Result<()> {
        interrupt::on_first(|| {})?;
        let tokenizing = Progress::new("tokenizing", Unit::Bytes);
        let mut display =
            Self { tokenizing, bar: None, line: None, later: Vec::new(), steps: 0, failed: None };
        let outcome = work(&mut |note| display.tell(&note));
        display.bar = None;
        if let Some(error) = display.failed.take() {
            return Err(error);
        }
        let Outcome { ending, metrics, .. } = outcome?;
        if ending == Ending::Stopped {
            eprintln!("stopped after step {}; --resume continues from there", display.steps);
            return Ok(());
        }
        let last = metrics.map_or(String::new(), |metrics| format!(": {}", describe(&metrics)));
        show(&format!("{what} in {}{last}\n", output.display()))
    }

    fn tell(&mut self, note: &Note<'_>) -> ControlFlow<()> {
        let said = match note {
            Note::Tokenizing(progress) => {
                self.tokenizing.at(progress.done as usize, progress.total as usize);
                Ok(())
            }
            Note::Begins { model, tokens, steps } => {
                self.steps = steps.0;
                let rest = if steps.0 == 0 { String::new() } else { format!(", {} done", steps.0) };
                self.say(&format!(
                    "{model}; {} for training, {} held out; {}{rest}",
                    count(tokens.0, "token"),
                    tokens.1,
                    count(steps.1, "step")
                ))
            }
            Note::Cost(cost) => {
                let stages = cost.stages.iter();
                self.later = stages.map(|(name, cost)| (name.name(), cost.seconds)).collect();
                self.say(&format!(
                    "about {} of memory and {} of steps on this machine, without evaluations",
                    units::bytes(cost.bytes()),
                    duration(cost.seconds())
                ))
            }
            Note::Baseline(metrics) => {
                self.say(&format!("teacher's last 64 tokens and first 4: {}", describe(metrics)))
            }
            Note::Train(Event::Step { stage, state, of, step }) => {
                self.steps = state.progress.total_steps;
                self.later.retain(|(name, _)| name != stage);
                self.step(stage, state, *of, step)
            }
            Note::Train(Event::Evaluation { stage, state, metrics }) => {
                let progress = &state.progress;
                let (step, tokens) = (progress.step, count(progress.tokens, "token"));
                self.say(&format!("{stage}, step {step}, {tokens}: {}", describe(metrics)))
            }
            _ => Ok(()),
        };
        self.failed = self.failed.take().or(said.err());
        if self.failed.is_some() { ControlFlow::Break(()) } else { interrupt::flow() }
    }

    /// Prints a line without disturbing the bar.
    fn say(&self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        match &self.bar {
            Some((_, bar)) => bar.suspend(|| show(&line)),
            None => show(&line),
        }
    }

    fn step(&mut self, stage: &str, state: &State, of: u64, step: &Step) -> Result<()> {
        let speed = step.tokens as f64 / step.seconds.max(1e-9);
        if !std::io::stderr().is_terminal() {
            if self.line.is_none_or(|last| last.elapsed().as_secs() >= INTERVAL) {
                let done = state.progress.step;
                let rest = step.seconds * of.saturating_sub(done) as f64;
                let left = rest + self.later.iter().map(|(_, seconds)| seconds).sum::<f64>();
                self.line = Some(Instant::now());
                return self.say(&format!(
                    "{stage}, step {done} of {of}: loss {:.4}, {speed:.0} tokens/s, about {} left",
                    step.loss(),
                    duration(left)
                ));
            }
            return Ok(());
        }
        if self.bar.as_ref().is_none_or(|(name, _)| name != stage) {
            let bar = ProgressBar::with_draw_target(Some(of), ProgressDrawTarget::stderr());
            let style = "{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}";
            let style = ProgressStyle::with_template(style);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(stage.to_owned());
            // Steps of an earlier run do not count in the estimate.
            bar.set_position(state.progress.step.saturating_sub(1));
            bar.reset_eta();
            self.bar = Some((stage.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_message(format!("loss {:.4} lr {:.1e} {speed:.0} tok/s", step.loss(), step.lr));
            bar.set_position(state.progress.step);
        }
        Ok(())
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Formats a duration in words: seconds, minutes or hours.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

/// Formats metrics as one line.
fn describe(metrics: &Metrics) -> String {
    let mut text =
        format!("perplexity {:.4} ({:.4} bits/byte)", metrics.perplexity, metrics.bits_per_byte);
    if let Some(teacher) = metrics.teacher_perplexity {
        text += &format!(", teacher {teacher:.4}");
    }
    if let (Some(kl), Some(agreement)) = (metrics.kl, metrics.agreement) {
        text += &format!(", KL {kl:.5}, same top-1 token {:.1} %", 100.0 * agreement);
    }
    text
}
