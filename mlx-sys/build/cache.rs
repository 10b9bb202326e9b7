//! The downloads, shared by all profiles and targets of a target directory.
//!
//! An entry is a directory. It is filled under a temporary name and then renamed, so it is complete
//! or absent. With a file lock, two builds that need the same entry download it once. Before every use
//! its files are compared with a hash that stands in these sources: caches are shared and restored.

use crate::{Result, target::Target};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The file in an entry that tells pip what to download.
pub const REQUIREMENTS: &str = "requirements.txt";

pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `MLX_LLAMBA_CACHE`, or `mlx-cache` in the target directory.
    pub fn open(out: &Path, target: &Target) -> Result<Self> {
        println!("cargo::rerun-if-env-changed=MLX_LLAMBA_CACHE");
        let dir = match env::var_os("MLX_LLAMBA_CACHE") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => target_dir(out, target).join("mlx-cache"),
        };
        fs::create_dir_all(&dir).map_err(|error| {
            format!(
                "cannot create the download cache {}: {error}\n\
                 Set MLX_LLAMBA_CACHE to a directory that can be written.",
                dir.display()
            )
        })?;
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Returns the directory called `name`, whose files have the hash `sha256`: see [`hash`]. If it is
    /// missing, `fill` creates its contents.
    pub fn entry(
        &self,
        name: &str,
        sha256: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.dir.join(name);
        // The cache may be deleted without the rest of the target directory.
        println!("cargo::rerun-if-changed={}", entry.display());
        if entry.is_dir() {
            return check(entry, sha256);
        }
        let at = |error| format!("{}: {error}", entry.display());
        let lock = File::create(self.dir.join(format!(".{name}.lock"))).map_err(at)?;
        lock.lock().map_err(at)?;
        if entry.is_dir() {
            return check(entry, sha256);
        }
        let part = self.dir.join(format!(".{name}.part"));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(at)?; // of a build that was killed
        }
        fs::create_dir(&part).map_err(at)?;
        fill(&part)?;
        let part = check(part, sha256)?;
        // Cargo runs a build again if what it depends on is newer than the build's own beginning.
        age(&part).map_err(at)?;
        fs::rename(&part, &entry).map_err(at)?;
        Ok(entry)
    }
}

/// Returns a directory whose files have this hash.
fn check(directory: PathBuf, sha256: &str) -> Result<PathBuf> {
    let shown = directory.display();
    let found = hash(&directory).map_err(|error| format!("{shown}: {error}"))?;
    if found == sha256 {
        return Ok(directory);
    }
    Err(format!(
        "the files in {shown} are not those that this build is pinned to: their hash is {found}, expected \
         {sha256}.\nRemove the directory to download them again."
    ))
}

/// Returns the SHA-256 of a directory's files: of what `sha256sum` prints for all of them, sorted by name,
/// but those that pip writes itself.
fn hash(directory: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    list(directory, "", &mut names)?;
    names.sort();
    let mut whole = Sha256::new();
    for name in names {
        let mut file = Sha256::new();
        io::copy(&mut File::open(directory.join(&name))?, &mut file)?;
        whole.update(format!("{:x}  {name}\n", file.finalize()));
    }
    Ok(format!("{:x}", whole.finalize()))
}

/// Adds the names of the files in a directory, all of which begin with `prefix`.
fn list(directory: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if name.ends_with(".dist-info") || name == REQUIREMENTS {
            continue;
        }
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

/// Sets the times of a directory and of everything in it to a day long ago.
fn age(path: &Path) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            age(&entry?.path())?;
        }
    }
    File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
}

/// OUT_DIR is `<target dir>/[<triple>/]<profile>/build/<package>/out`. The target directory of
/// `cargo install` is temporary unless it installs from a path: the command that it installs loads MLX
/// from a directory that stays, in cargo's home.
fn target_dir(out: &Path, target: &Target) -> PathBuf {
    let temporary =
        |part: Component<'_>| part.as_os_str().to_string_lossy().starts_with("cargo-install");
    if let Some(home) = env::var_os("CARGO_HOME").filter(|_| out.components().any(temporary)) {
        return PathBuf::from(home).join("mlx-llamba");
    }
    let profile = out.ancestors().find(|dir| dir.ends_with("build")).and_then(Path::parent);
    let Some(parent) = profile.and_then(Path::parent) else {
        return out.to_path_buf();
    };
    if parent.ends_with(&target.triple) { parent.join("..") } else { parent.to_path_buf() }
}
