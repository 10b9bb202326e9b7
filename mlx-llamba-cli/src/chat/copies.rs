//! The copies of a conversation, each with a file of its own or none.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::Session;

/// A conversation.
pub(super) struct Copy<'m> {
    pub(super) session: Session<'m>,
    /// Where it is saved after every turn.
    pub(super) file: Option<PathBuf>,
}

/// Conversations, numbered from 1, of which one is talked in.
pub(super) struct Copies<'m> {
    all: Vec<Copy<'m>>,
    current: usize,
}

impl<'m> Copies<'m> {
    pub(super) fn new(first: Copy<'m>) -> Self {
        Self { all: vec![first], current: 0 }
    }

    /// The one that is talked in.
    pub(super) fn here(&mut self) -> &mut Copy<'m> {
        &mut self.all[self.current]
    }

    pub(super) fn number(&self) -> usize {
        self.current + 1
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Goes on in another conversation. The one so far stays, unless nothing was said in it.
    pub(super) fn add(&mut self, copy: Copy<'m>) {
        let here = self.here();
        if here.file.is_none() && here.session.messages().len() == 0 {
            *here = copy;
            return;
        }
        self.all.push(copy);
        self.current = self.all.len() - 1;
    }

    pub(super) fn switch(&mut self, number: usize) -> Result<()> {
        let count = self.all.len();
        if !(1..=count).contains(&number) {
            bail!("there is no copy {number}: there are {count}");
        }
        self.current = number - 1;
        Ok(())
    }

    /// The copy that is saved in this file.
    pub(super) fn of(&self, file: &Path) -> Option<usize> {
        self.all.iter().position(|copy| copy.file.as_deref() == Some(file)).map(|i| i + 1)
    }

    /// Has the copy that is talked in saved in this file from now on.
    pub(super) fn name(&mut self, file: PathBuf) -> Result<()> {
        if self.here().file.as_ref() == Some(&file) {
            return Ok(());
        }
        let shown = file.display();
        if let Some(number) = self.of(&file) {
            bail!("{shown} is copy {number}; /save needs another name");
        }
        if file.exists() {
            bail!("there is {shown} already; /load it, or take another name");
        }
        self.here().file = Some(file);
        Ok(())
    }

    /// Saves the one that is talked in, if it has a file.
    pub(super) fn save(&mut self) -> Result<()> {
        let Copy { session, file } = self.here();
        let Some(file) = file else { return Ok(()) };
        if let Some(directory) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(session.save(file)?)
    }
}
