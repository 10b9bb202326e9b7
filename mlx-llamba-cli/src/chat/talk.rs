//! A conversation in progress.

use anyhow::Result;
use mlx_llamba::snapshots::SnapshotBudget;
use mlx_llamba::{Cancel, Event, Generation, Llamba, Reason, Session, Stats};

use super::copies::Copies;
use super::running::Running;
use crate::generate::summary;
use crate::output::show;
use crate::progress::{Progress, Unit};

pub(super) struct Chat<'m> {
    pub(super) llamba: &'m Llamba,
    pub(super) options: Generation,
    pub(super) verbose: bool,
    pub(super) budget: SnapshotBudget,
    pub(super) name: String,
    pub(super) copies: Copies<'m>,
    /// Statistics of the last reply.
    pub(super) last: Option<Stats>,
    /// The number of regenerated replies, in all copies. With `--seed`, it gives each of them a seed
    /// that no other reply had; with an equal seed the text would be the same.
    pub(super) regenerated: u64,
    pub(super) running: Running,
}

/// The kind of reply to write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// A reply to new messages.
    Next,
    /// A replacement for the last reply.
    Regenerate,
}

impl<'m> Chat<'m> {
    pub(super) fn session(&mut self) -> &mut Session<'m> {
        &mut self.copies.here().session
    }

    /// Adds a message of the user and lets the model reply.
    pub(super) fn say(&mut self, text: impl Into<String>) -> Result<()> {
        let before = self.session().fork();
        self.session().push_user(text);
        self.reply(Ask::Next, before, false)
    }

    /// Lets the model reply, and saves the session if it has a file. Restores the session `before` if
    /// that fails, or, where messages were `dropped` for the reply, if Ctrl-C comes before its first
    /// token.
    pub(super) fn reply(&mut self, ask: Ask, before: Session<'m>, dropped: bool) -> Result<()> {
        let mut options = self.options.clone();
        if ask == Ask::Regenerate {
            self.regenerated += 1;
            let other = |seed: u64| seed.wrapping_add(self.regenerated);
            options.sampling.seed = options.sampling.seed.map(other);
        }
        options.cancel = Cancel::default();
        self.running.set(Some(options.cancel.clone()));
        let mut written = false;
        let result = self.stream(ask, &options, &mut written);
        self.running.set(None);
        if !written && (dropped || result.is_err()) {
            *self.session() = before;
        }
        result?;
        self.copies.save();
        Ok(())
    }

    fn stream(&mut self, ask: Ask, options: &Generation, written: &mut bool) -> Result<()> {
        let session = &mut self.copies.here().session;
        let reply = match ask {
            Ask::Next => session.reply(options)?,
            Ask::Regenerate => session.regenerate(options)?,
        };
        let reading = Progress::new("reading", Unit::Tokens);
        for event in reply {
            let event = event?;
            if let Event::Prefill { read, total } = event {
                reading.at(read, total);
            }
            *written |= matches!(event, Event::Token { .. });
            show(event.text())?;
            if let Event::End { reason, stats, .. } = event {
                show("\n")?;
                if self.verbose {
                    eprintln!("{}", summary(&reason, &stats));
                }
                if reason == Reason::Cancelled {
                    eprintln!("(stopped)");
                }
                self.last = Some(stats);
            }
        }
        Ok(())
    }
}
