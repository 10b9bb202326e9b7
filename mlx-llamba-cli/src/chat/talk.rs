//! The conversation under way.

use anyhow::Result;
use mlx_llamba::{Cancel, Event, Generation, Llamba, Reason, Session, SnapshotBudget, Stats};

use super::command::Command;
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
    /// Of the last reply.
    pub(super) last: Option<Stats>,
    /// Replies written anew so far, in whichever copy: with `--seed`, each of them has a seed that no
    /// other reply had, or it would be the same one.
    pub(super) written_anew: u64,
    pub(super) running: Running,
}

/// How a reply comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// To new messages.
    Next,
    /// Instead of the last one.
    Anew,
}

impl<'m> Chat<'m> {
    /// Does what a line says; false ends the conversation.
    pub(super) fn take(&mut self, line: &str) -> Result<bool> {
        match Command::parse(line)? {
            None => {
                self.say(line)?;
                Ok(true)
            }
            Some(command) => command.run(self),
        }
    }

    pub(super) fn session(&mut self) -> &mut Session<'m> {
        &mut self.copies.here().session
    }

    /// Says something and lets the model answer.
    pub(super) fn say(&mut self, text: impl Into<String>) -> Result<()> {
        let before = self.session().fork();
        self.session().push_user(text);
        self.reply(Ask::Next, before, false)
    }

    /// Lets the model answer, and saves the session if it has a file. If it cannot, or, where
    /// something was `dropped` for it, if Ctrl-C comes before its first token, the session is what
    /// it was `before`.
    pub(super) fn reply(&mut self, ask: Ask, before: Session<'m>, dropped: bool) -> Result<()> {
        let mut options = self.options.clone();
        if ask == Ask::Anew {
            self.written_anew += 1;
            let other = |seed: u64| seed.wrapping_add(self.written_anew);
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
        self.copies.save()
    }

    fn stream(&mut self, ask: Ask, options: &Generation, written: &mut bool) -> Result<()> {
        let session = &mut self.copies.here().session;
        let reply = match ask {
            Ask::Next => session.reply(options)?,
            Ask::Anew => session.regenerate(options)?,
        };
        let reading = Progress::new("reading", Unit::Tokens);
        for event in reply {
            let event = event?;
            if let Event::Prompt { read, total } = event {
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
