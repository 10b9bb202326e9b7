//! Downloads, resumed after an interruption and checked.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::failure::{Failure, pause};
use super::remote::{Follow, Remote, RemoteFile};
use crate::files::hash;

impl Remote {
    /// Downloads the bytes of `file` that `part` lacks and checks the complete file.
    pub(super) fn download(
        &self,
        file: &RemoteFile,
        part: &Path,
        report: &dyn Fn(u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let local = |e| Failure::local("write", part, e);
        let open = OpenOptions::new().create(true).read(true).append(true).open(part);
        let mut out = open.map_err(local)?;
        let mut failures = 0;
        loop {
            let start = out.seek(SeekFrom::End(0)).map_err(local)?;
            if start > file.size {
                out.set_len(0).map_err(local)?;
                continue;
            }
            report(start)?;
            if start == file.size {
                break;
            }
            let Err(failure) = self.piece(file, &mut out, part, start, report) else {
                continue;
            };
            let end = out.seek(SeekFrom::End(0)).map_err(local)?;
            if end > start {
                failures = 0;
            }
            if failures >= self.retries || !failure.is_temporary() {
                return Err(failure);
            }
            failures += 1;
            pause(failures);
        }
        let checked = check(file, &mut out, part);
        if checked.is_err() {
            std::fs::remove_file(part).map_err(|e| Failure::local("remove", part, e))?;
        }
        checked
    }

    /// One request for everything from `start` on, written to `out`.
    fn piece(
        &self,
        file: &RemoteFile,
        out: &mut File,
        part: &Path,
        start: u64,
        report: &dyn Fn(u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let local = |e| Failure::local("write", part, e);
        let response = match self.ask(false, &file.url, Follow::All, start) {
            // The partial download is of no use.
            Err(Failure::Status { status: 416, .. }) if start > 0 => {
                out.set_len(0).map_err(local)?;
                return Err(Failure::Unreachable(
                    "the hub refused to resume the download".to_owned(),
                ));
            }
            response => response?,
        };
        let from = response.headers().get("content-range").and_then(|range| {
            let range = range.to_str().ok()?.strip_prefix("bytes ")?;
            range.split('-').next()?.parse::<u64>().ok()
        });
        let mut end = match (response.status().as_u16(), from) {
            (206, Some(from)) if from == start => start,
            (206, _) => return Err(Failure::Nonsense(format!("another part of {}", file.name))),
            _ if start == 0 => 0,
            _ => {
                out.set_len(0).map_err(local)?; // the whole file, although only a part was requested
                0
            }
        };
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) if end < file.size => {
                    let cut = format!("{} broke off after {end} of {} bytes", file.name, file.size);
                    return Err(Failure::Unreachable(cut));
                }
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) => return Err(Failure::Unreachable(e.to_string())),
            };
            end += read as u64;
            if end > file.size {
                out.set_len(0).map_err(local)?;
                let (name, size) = (&file.name, file.size);
                return Err(Failure::Damaged(format!("{name} is longer than its {size} bytes")));
            }
            out.write_all(&buffer[..read]).map_err(local)?;
            report(end)?;
        }
    }
}

/// An etag of 64 hexadecimal digits is the SHA-256 of the file.
fn check(file: &RemoteFile, out: &mut File, part: &Path) -> Result<(), Failure> {
    if file.etag.len() != 64 || !file.etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let read = |e| Failure::local("read", part, e);
    out.seek(SeekFrom::Start(0)).map_err(read)?;
    let mut hasher = Sha256::new();
    std::io::copy(out, &mut hasher).map_err(read)?;
    let found = hash::hex(&hasher.finalize());
    if found.eq_ignore_ascii_case(&file.etag) {
        return Ok(());
    }
    let (name, etag) = (&file.name, &file.etag);
    Err(Failure::Damaged(format!("{name} has the checksum {found}, expected {etag}")))
}
