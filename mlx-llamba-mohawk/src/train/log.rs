//! `log.jsonl`: the steps and evaluations of a run, one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use mlx_llamba::files::AtomicFile;

use crate::Result;
use crate::error::io;
use crate::evaluate::Metrics;

/// A line: a step, or an evaluation after one.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The number of steps of all stages so far.
    pub step: u64,
    /// The stage's name.
    pub stage: String,
    /// The number of tokens read so far in all stages.
    pub tokens: u64,
    /// Mean of the parts' losses.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// The parts' losses, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub losses: Vec<f32>,
    /// Learning rate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<f64>,
    /// Norm of the gradients.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub norm: Option<f64>,
    /// Speed of the step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_second: Option<f64>,
    /// The evaluation on held-out text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_out: Option<Metrics>,
}

/// The log of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log to continue after step `step`: lines of later steps, and an incomplete one, are
    /// removed.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut kept = AtomicFile::create(path).map_err(io("write", path))?;
        for record in read(path)?.iter().take_while(|record| record.step <= step) {
            kept.write_all(line(record).as_bytes()).map_err(io("write", path))?;
        }
        kept.publish().map_err(io("write", path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(io("write", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn push(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(line(record).as_bytes()).map_err(io("write", &self.path))
    }

    /// Reads all lines so far.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn records(&self) -> Result<Vec<Record>> {
        read(&self.path)
    }
}

fn line(record: &Record) -> String {
    // A record is plain data whose keys are text.
    let mut line = serde_json::to_string(record).unwrap_or_default();
    line.push('\n');
    line
}

/// Reads the lines of a log up to the first damaged one; none if there is no file.
fn read(path: &Path) -> Result<Vec<Record>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("read", path)(error)),
    };
    let mut records = Vec::new();
    for line in BufReader::new(file).lines() {
        match line {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(record) => records.push(record),
                Err(_) => break,
            },
            Err(error) if error.kind() == ErrorKind::InvalidData => break,
            Err(error) => return Err(io("read", path)(error)),
        }
    }
    Ok(records)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record { step, stage: "alignment".into(), loss: Some(0.5), ..Record::default() }
    }

    #[test]
    fn goes_on_where_the_checkpoint_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.jsonl");
        let mut log = Log::open(&path, 0).unwrap();
        (1..=5).for_each(|step| log.push(&record(step)).unwrap());
        drop(log);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"step\": 6, \"sta");
        std::fs::write(&path, &text).unwrap();
        let mut log = Log::open(&path, 3).unwrap();
        log.push(&record(4)).unwrap();
        let steps: Vec<u64> = log.records().unwrap().iter().map(|record| record.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        // A log of which nothing is kept, and one that is all kept.
        assert_eq!(Log::open(&path, 99).unwrap().records().unwrap().len(), 4);
        assert!(Log::open(&path, 0).unwrap().records().unwrap().is_empty());
    }
}
