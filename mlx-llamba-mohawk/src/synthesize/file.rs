//! The file that texts are written to, and its continuation after an interruption.
//!
//! Until it is complete it is called `NAME.partial`: a line with everything that decides the texts,
//! then one line per text, in order, as they are complete. To continue, an incomplete group is written again.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use mlx_llamba::files::AtomicFile;
use mlx_llamba::progress::{OnProgress, Progress};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Options, Prompt, Writer, Written};
use crate::run::{fingerprint, identify};
use crate::train::{Identity, differences, io};
use crate::{Error, Result};
use mlx_llamba_teacher::Llama;

/// The arguments of a synthesis.
pub struct Job<'a> {
    /// The teacher's directory or file, which decides the texts.
    pub path: &'a Path,
    /// The teacher.
    pub llama: &'a Llama,
    /// Its tokenizer.
    pub tokenizer: &'a mlx_llamba::Tokenizer,
    /// Beginnings of texts, used in turn; may be empty.
    pub prompts: &'a [Prompt],
    /// The sampling options.
    pub options: Options,
    /// Tokens of all texts together: the last text is the one that reaches them.
    pub tokens: u64,
    /// The file, in JSON lines.
    pub output: &'a Path,
    /// Continues a file that was begun.
    pub resume: bool,
    /// Replaces the file, when the new one is complete, and one that was begun.
    pub overwrite: bool,
}

/// The result of a synthesis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Texts that are not empty.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Bytes of their texts.
    pub bytes: u64,
    /// Texts that ended before they were cut at the length limit.
    pub ended: u64,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    text: String,
    tokens: usize,
    ended: bool,
}

/// Writes texts until they have enough tokens. `on_progress` gets the number of tokens so far and can
/// stop it; what is complete is then in the `.partial` file, and a later call can continue.
///
/// # Errors
/// [`mlx_llamba::Error::OutputExists`]; [`Error::RunExists`] for a file that was begun, unless it is
/// to be continued; [`Error::NothingToResume`] and [`Error::OtherRun`] if it cannot be;
/// [`mlx_llamba::Error::Io`]; those of [`Writer::new`] and [`Writer::group`].
pub fn synthesize(job: &Job<'_>, on_progress: OnProgress<'_>) -> Result<Made> {
    if job.output.exists() && !job.overwrite {
        return Err(mlx_llamba::Error::OutputExists { path: job.output.to_owned() }.into());
    }
    let writer = Writer::new(job.llama, job.tokenizer, job.prompts, job.options.clone())?;
    let mut partial = Partial::open(job, writer.group_size() as u64)?;
    while partial.tokens < job.tokens {
        let (before, total) = (partial.tokens, job.tokens);
        let mut told = |now: Progress<'_>| on_progress(Progress::new("", before + now.done, total));
        let number = partial.texts / writer.group_size() as u64;
        writer.write(number, total - before, &mut |texts| partial.add(&texts), &mut told)?;
    }
    partial.publish(job.output, job.tokens)
}

struct Partial {
    path: PathBuf,
    file: File,
    texts: u64,
    tokens: u64,
}

impl Partial {
    fn open(job: &Job<'_>, group: u64) -> Result<Self> {
        let mut name = job.output.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = job.output.with_file_name(name);
        let identity = identity(job)?;
        if job.overwrite && path.exists() {
            fs::remove_file(&path).map_err(io("remove", &path))?;
        }
        match (path.exists(), job.resume) {
            (true, false) => Err(Error::RunExists { path }),
            (false, true) => Err(Error::NothingToResume { path }),
            (false, false) => {
                let file = File::create_new(&path).map_err(io("write", &path))?;
                let mut partial = Self { path, file, texts: 0, tokens: 0 };
                partial.write(&(serde_json::json!(identity).to_string() + "\n"))?;
                Ok(partial)
            }
            (true, true) => Self::resume(path, &identity, group),
        }
    }

    /// Goes on after the last whole group.
    fn resume(path: PathBuf, identity: &Identity, group: u64) -> Result<Self> {
        let mut file =
            OpenOptions::new().read(true).append(true).open(&path).map_err(io("read", &path))?;
        let mut reader = BufReader::new(&mut file);
        // The last line may be cut anywhere.
        let mut next = || -> Result<Option<Vec<u8>>> {
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line).map_err(io("read", &path))?;
            Ok(Some(line).filter(|line| line.ends_with(b"\n")))
        };
        let first = next()?.unwrap_or_default();
        let known: Identity = serde_json::from_slice(&first).unwrap_or_default();
        let differences = differences(&known, identity);
        if !differences.is_empty() {
            return Err(Error::OtherRun { path, differences });
        }
        let (mut texts, mut tokens, mut end) = (0, 0, first.len() as u64);
        'groups: loop {
            let (mut more, mut length) = (0, 0);
            for _ in 0..group {
                let Some(line) = next()? else { break 'groups };
                let Ok(parsed) = serde_json::from_slice::<Line>(&line) else { break 'groups };
                more += parsed.tokens as u64;
                length += line.len() as u64;
            }
            (texts, tokens, end) = (texts + group, tokens + more, end + length);
        }
        file.set_len(end).map_err(io("write", &path))?;
        Ok(Self { path, file, texts, tokens })
    }

    fn add(&mut self, group: &[Written]) -> Result<()> {
        let mut lines = String::new();
        for Written { text, tokens, ended } in group {
            let line = Line { text: text.clone(), tokens: *tokens, ended: *ended };
            lines += &(serde_json::json!(line).to_string() + "\n");
            self.tokens += *tokens as u64;
        }
        self.texts += group.len() as u64;
        self.write(&lines)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(io("write", &self.path))
    }

    /// Gives the texts their place; the partial file goes.
    fn publish(self, output: &Path, enough: u64) -> Result<Made> {
        let reader = BufReader::new(File::open(&self.path).map_err(io("read", &self.path))?);
        let mut whole = AtomicFile::create(output).map_err(io("write", output))?;
        let (mut made, mut reached) = (Made::default(), 0);
        for line in reader.lines().skip(1) {
            let line = line.map_err(io("read", &self.path))?;
            let bad = |error: serde_json::Error| Error::Document {
                path: self.path.clone(),
                line: None,
                reason: error.to_string(),
            };
            let parsed: Line = serde_json::from_str(&line).map_err(bad)?;
            reached += parsed.tokens as u64;
            if !parsed.text.is_empty() {
                whole.write_all((line + "\n").as_bytes()).map_err(io("write", output))?;
                made.texts += 1;
                made.tokens += parsed.tokens as u64;
                made.bytes += parsed.text.len() as u64;
                made.ended += u64::from(parsed.ended);
            }
            if reached >= enough {
                break;
            }
        }
        whole.publish().map_err(io("write", output))?;
        fs::remove_file(&self.path).map_err(io("remove", &self.path))?;
        Ok(made)
    }
}

/// Everything that decides the texts, but not how many there are.
fn identity(job: &Job<'_>) -> Result<Identity> {
    let Options { sampling, seed, begin, ends, length, batch } = &job.options;
    let mut hasher = Sha256::new();
    for prompt in job.prompts {
        hasher.update(serde_json::json!([prompt.text, prompt.ids, prompt.chat]).to_string());
    }
    let mut identity = Identity::new();
    identify(&mut identity, "teacher", &fingerprint(job.path)?);
    identify(&mut identity, "tokenizer", &job.tokenizer.fingerprint());
    identify(&mut identity, "dtype", &format!("{:?}", job.llama.dtype()).to_lowercase());
    identify(&mut identity, "prompts", &&format!("{:x}", hasher.finalize())[..16]);
    identify(&mut identity, "temperature", &sampling.temperature.to_string());
    identify(&mut identity, "top_k", &sampling.top_k);
    identify(&mut identity, "top_p", &sampling.top_p.to_string());
    identify(&mut identity, "min_p", &sampling.min_p.to_string());
    identify(&mut identity, "seed", seed);
    identify(&mut identity, "begin", begin);
    identify(&mut identity, "ends", ends);
    identify(&mut identity, "length", length);
    identify(&mut identity, "batch", batch);
    Ok(identity)
}
