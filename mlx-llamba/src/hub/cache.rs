//! The cache on disk: blobs by etag, directories of links to them by commit, commits by revision.

use std::fs::File;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

use super::failure::Failure;
use crate::files::TokenizerFiles;

/// The files that are wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Model,
    Tokenizer,
}

impl Wanted {
    /// The files to fetch among those of a repository; an error if a required one is missing.
    pub(super) fn choose<'a>(self, files: &[&'a str]) -> Result<Vec<&'a str>, String> {
        let safetensors = |file: &str| {
            file.ends_with(".safetensors") && !file.starts_with("consolidated") && is_name(file)
        };
        let wanted = |file: &&str| {
            let model = *file == "config.json"
                || safetensors(file)
                || (file.ends_with(".safetensors.index.json") && is_name(file));
            TokenizerFiles::READ.contains(file) || (self == Self::Model && model)
        };
        let chosen: Vec<&str> = files.iter().copied().filter(wanted).collect();
        let (good, need) = match self {
            Self::Model => (chosen.iter().any(|file| safetensors(file)), "*.safetensors"),
            Self::Tokenizer => (chosen.contains(&"tokenizer.json"), "tokenizer.json"),
        };
        if good { Ok(chosen) } else { Err(format!("a repository without any {need}")) }
    }
}

/// True for a file at the top of the repository that is not hidden.
fn is_name(file: &str) -> bool {
    !file.starts_with('.') && !file.contains(['/', '\\', '\0'])
}

/// One revision of one repository.
pub(super) struct Snapshots {
    cache: hf_hub::CacheRepo,
    root: PathBuf,
    revision: String,
}

impl Snapshots {
    pub(super) fn new(cache: &Path, repo: &str, revision: &str) -> Self {
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        Self {
            root: cache.join(repo.folder_name()),
            cache: Cache::new(cache.to_owned()).repo(repo),
            revision: revision.to_owned(),
        }
    }

    /// The directory of a commit's files.
    pub(super) fn directory(&self, commit: &str) -> PathBuf {
        self.cache.pointer_path(commit)
    }

    pub(super) fn place(&self, commit: &str, file: &str) -> PathBuf {
        self.directory(commit).join(file)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.cache.blob_path(etag)
    }

    /// Creates a link to `blob` at `place`, replacing a broken one.
    pub(super) fn link(&self, blob: &Path, place: &Path) -> Result<(), Failure> {
        make_parent(place)?;
        if place.is_symlink() && !place.exists() {
            std::fs::remove_file(place).map_err(|e| Failure::local("remove", place, e))?;
        }
        let name = blob.file_name().unwrap_or_default();
        let relative = Path::new("../../blobs").join(name);
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(relative, place);
        #[cfg(not(unix))]
        let linked = std::fs::hard_link(self.root.join("snapshots/x").join(relative), place);
        match linked {
            Err(e) if !place.exists() => Err(Failure::local("create", place, e)),
            _ => Ok(()),
        }
    }

    /// Records that the revision is at `commit`. A cache that cannot be written is no failure: the
    /// files are there.
    pub(super) fn remember(&self, commit: &str) {
        let known = std::fs::read_to_string(self.reference());
        if self.revision == commit || known.is_ok_and(|known| known.trim() == commit) {
            return;
        }
        if let Err(error) = self.cache.create_ref(commit) {
            log::warn!("cannot write {}: {error}", self.reference().display());
        }
    }

    fn reference(&self) -> PathBuf {
        self.root.join("refs").join(&self.revision)
    }

    /// The directory of the revision, if everything wanted is in it.
    pub(super) fn complete(&self, wanted: Wanted) -> Option<PathBuf> {
        let commit = std::fs::read_to_string(self.reference());
        let commit = commit.as_deref().map_or(self.revision.as_str(), str::trim);
        let directory = Some(self.directory(commit)).filter(|_| super::plain(commit, ""))?;
        is_complete(&directory, wanted).then_some(directory)
    }
}

/// True if everything wanted is in the directory of a revision.
pub(super) fn is_complete(directory: &Path, wanted: Wanted) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // A link to a blob that is gone does not exist.
    let entries = entries.filter(|entry| entry.path().exists());
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Ok(chosen) = wanted.choose(&names) else {
        return false;
    };
    let mut indices = chosen.iter().filter(|name| name.ends_with(".index.json"));
    indices.all(|index| {
        shards(&directory.join(index))
            .is_some_and(|shards| shards.iter().all(|shard| chosen.contains(&shard.as_str())))
    })
}

/// The files that an index names.
fn shards(index: &Path) -> Option<Vec<String>> {
    let index: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let files = index["weight_map"].as_object()?.values();
    Some(files.filter_map(|file| file.as_str().map(str::to_owned)).collect())
}

/// Waits until no other process downloads this blob, and locks it until the file is dropped.
pub(super) fn lock(blob: &Path) -> Result<File, Failure> {
    make_parent(blob)?;
    let path = blob.with_extension("lock");
    let file = File::create(&path).map_err(|e| Failure::local("create", &path, e))?;
    file.lock().map_err(|e| Failure::local("lock", &path, e))?;
    Ok(file)
}

/// Renames a complete partial download to the blob.
pub(super) fn finish(part: &Path, blob: &Path) -> Result<(), Failure> {
    std::fs::rename(part, blob).map_err(|e| Failure::local("rename", part, e))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).map_err(|e| Failure::local("create", parent, e))
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn only_useful_files_are_chosen() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "../x.safetensors",
            ".x.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let model = [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ];
        assert_eq!(Wanted::Model.choose(&files).as_deref(), Ok(&model[..]));
        let tokenizer = ["generation_config.json", "tokenizer.json"];
        assert_eq!(Wanted::Tokenizer.choose(&files).as_deref(), Ok(&tokenizer[..]));
        assert!(Wanted::Model.choose(&["config.json", "pytorch_model.bin"]).is_err());
        assert!(Wanted::Tokenizer.choose(&["tokenizer.model"]).is_err());
    }
}
