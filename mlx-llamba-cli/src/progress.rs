//! Progress bars on standard error for longer work.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;

/// The time after which a bar appears.
const PATIENCE: Duration = Duration::from_millis(800);

/// The unit of a bar.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Questions,
    Tokens,
    Weights,
}

/// A bar that appears if the work is not done soon. Nothing is drawn unless standard error is a
/// terminal.
pub(crate) struct Progress {
    label: String,
    unit: Unit,
    started: Instant,
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress {
    pub(crate) fn new(label: impl Into<String>, unit: Unit) -> Self {
        Self { label: label.into(), unit, started: Instant::now(), bar: RefCell::default() }
    }

    /// Moves to `done` of `total`; the bar disappears at the end.
    pub(crate) fn at(&self, done: usize, total: usize) {
        let mut bar = self.bar.borrow_mut();
        if done >= total {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        } else if self.started.elapsed() > PATIENCE {
            let bar = bar.get_or_insert_with(|| self.draw());
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Returns a callback that moves the bar. It stops the work after a Ctrl-C.
    pub(crate) fn callback(
        self,
    ) -> impl FnMut(mlx_llamba::progress::Progress<'_>) -> ControlFlow<()> + Send {
        move |now| {
            self.at(now.done as usize, now.total as usize);
            interrupt::flow()
        }
    }

    fn draw(&self) -> ProgressBar {
        let numbers = match self.unit {
            Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
            Unit::Questions => "{human_pos}/{human_len} questions {per_sec} eta {eta}",
            Unit::Weights => "{human_pos}/{human_len} weights eta {eta}",
            Unit::Tokens => "{human_pos}/{human_len} tokens {per_sec} eta {eta}",
        };
        let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {numbers}"));
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(self.label.clone());
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
