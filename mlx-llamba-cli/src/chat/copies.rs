//! The copies of a conversation, each with its own file or without one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::Session;

/// One copy of a conversation.
pub(super) struct Copy<'m> {
    pub(super) session: Session<'m>,
    /// The file to which it is saved after every turn.
    pub(super) file: Option<PathBuf>,
}

/// Copies numbered from 1, one of which is the current one.
pub(super) struct Copies<'m> {
    all: Vec<Copy<'m>>,
    current: usize,
    /// Copies that could not be saved.
    unsaved: BTreeSet<usize>,
}

/// Checks that a conversation can be saved to `file`, before there is one.
pub(super) fn check_writable(file: &Path) -> Result<()> {
    let directory = match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(directory) => directory,
        None => Path::new("."),
    };
    let writable = mlx_llamba::files::atomic::private_directory(directory)
        .and_then(|()| tempfile::NamedTempFile::new_in(directory).map_err(crate::output::plain));
    writable.map(drop).with_context(|| format!("cannot write {}", file.display()))
}

impl<'m> Copies<'m> {
    pub(super) fn new(first: Copy<'m>) -> Self {
        Self { all: vec![first], current: 0, unsaved: BTreeSet::new() }
    }

    /// Returns the current copy.
    pub(super) fn here(&mut self) -> &mut Copy<'m> {
        &mut self.all[self.current]
    }

    pub(super) fn number(&self) -> usize {
        self.current + 1
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Adds a copy and makes it current. An empty copy without a file is replaced.
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

    /// Returns the number of the copy that is saved to this file.
    pub(super) fn of(&self, file: &Path) -> Option<usize> {
        self.all.iter().position(|copy| copy.file.as_deref() == Some(file)).map(|i| i + 1)
    }

    /// Sets the file of the current copy.
    pub(super) fn name(&mut self, file: PathBuf) -> Result<()> {
        if self.here().file.as_ref() == Some(&file) {
            return Ok(());
        }
        let shown = file.display();
        if let Some(number) = self.of(&file) {
            bail!("{shown} is copy {number}; /save needs another name");
        }
        if file.exists() {
            bail!("{shown} already exists; /load it, or choose another name");
        }
        self.here().file = Some(file);
        Ok(())
    }

    /// Saves the current copy, if it has a file. A failure is told, and the next turn tries again: the
    /// conversation goes on.
    pub(super) fn save(&mut self) {
        if let Err(error) = self.write() {
            let error = crate::output::describe(&error);
            eprintln!("error: not saved, to be tried again after the next turn: {error}");
        }
    }

    /// Tries again to save what could not be saved.
    pub(super) fn finish(&mut self) -> Result<()> {
        while let Some(number) = self.unsaved.pop_first() {
            self.current = number;
            self.write()?;
        }
        Ok(())
    }

    /// Writes the current copy to its file, if it has one.
    pub(super) fn write(&mut self) -> Result<()> {
        let current = self.current;
        let Some(file) = self.here().file.clone() else { return Ok(()) };
        self.unsaved.insert(current);
        if let Some(directory) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            mlx_llamba::files::atomic::private_directory(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        self.here().session.save(file)?;
        self.unsaved.remove(&current);
        Ok(())
    }
}
