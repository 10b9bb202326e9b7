//! The files beside a model's weights: its tokenizer, templates and generation settings.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The contents of a tokenizer's files, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerFiles(BTreeMap<String, Cow<'static, [u8]>>);

impl TokenizerFiles {
    /// The directory of further chat templates, `NAME.jinja`.
    pub const TEMPLATES: &'static str = "additional_chat_templates";
    /// The files that this library reads.
    pub const READ: [&'static str; 6] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
    ];
    /// The files that only other tools read.
    pub const OTHER: [&'static str; 4] =
        ["tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"];

    /// Reads the files beside `tokenizer`, a file that is taken as the `tokenizer.json` whatever
    /// its name. Files that do not exist are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if a file exists and cannot be read.
    pub fn beside(tokenizer: &Path) -> Result<Self> {
        let mut files = Self::default();
        files.read("tokenizer.json", tokenizer)?;
        for name in &Self::READ[1..] {
            files.read(name, &tokenizer.with_file_name(name))?;
        }
        let directory = tokenizer.with_file_name(Self::TEMPLATES);
        let entries = std::fs::read_dir(&directory).into_iter().flatten();
        let templates: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        for path in templates.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja")) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.read(&format!("{}/{name}", Self::TEMPLATES), path)?;
        }
        Ok(files)
    }

    /// Reads all files of a directory that a user of the model needs beside the weights.
    ///
    /// # Errors
    /// [`Error::Io`] if a file exists and cannot be read.
    pub fn of_model(directory: &Path) -> Result<Self> {
        let mut files = Self::beside(&directory.join("tokenizer.json"))?;
        for name in Self::OTHER {
            files.read(name, &directory.join(name))?;
        }
        Ok(files)
    }

    /// The content of a file.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// Adds a file, or replaces it.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        self.0.insert(name.to_owned(), bytes.into());
        self
    }

    /// Names and contents, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_ref()))
    }

    /// Names and texts of the templates in `additional_chat_templates`.
    pub(crate) fn templates(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter().filter_map(|(name, bytes)| {
            let name = name.strip_prefix(Self::TEMPLATES)?.strip_prefix('/')?;
            Some((name.strip_suffix(".jinja")?, bytes))
        })
    }

    /// True for a directory of chat templates, and nothing else in it.
    pub(super) fn is_template_directory(path: &Path) -> bool {
        let template = |entry: std::io::Result<std::fs::DirEntry>| {
            let Ok(entry) = entry else { return false };
            let file = entry.file_type().is_ok_and(|kind| kind.is_file());
            file && entry.path().extension().is_some_and(|extension| extension == "jinja")
        };
        path.file_name().is_some_and(|name| name == Self::TEMPLATES)
            && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
            && std::fs::read_dir(path).is_ok_and(|mut entries| entries.all(template))
    }

    fn read(&mut self, name: &str, path: &Path) -> Result<()> {
        match super::read(path) {
            Ok(bytes) => {
                self.0.insert(name.to_owned(), bytes.into());
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }
}
