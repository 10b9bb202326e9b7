//! The values that determine what a run computes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::io;
use crate::train::Identity;

/// Adds the fields of a value to an identity, under dotted names.
pub(crate) fn identify(identity: &mut Identity, name: &str, value: &impl Serialize) {
    fn add(identity: &mut Identity, name: String, value: Value) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    add(identity, format!("{name}.{field}"), value);
                }
            }
            Value::Null => {}
            other => drop(identity.insert(name, other)),
        }
    }
    // Recipes are plain data whose keys are text.
    add(identity, name.to_owned(), serde_json::to_value(value).unwrap_or_default());
}

/// A fingerprint of a model's files: their lengths, and a hash over samples of each.
pub(crate) fn fingerprint(path: &Path) -> Result<String> {
    const SAMPLE: u64 = 1 << 20;
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(io("list", path))? {
            let file = entry.map_err(io("list", path))?.path();
            let model = file.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
            if model || file.file_name().is_some_and(|name| name == "config.json") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut hasher = Sha256::new();
    for path in files {
        let mut sample = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            let length = file.metadata()?.len();
            hasher.update(length.to_le_bytes());
            for i in 0..=8 {
                file.seek(SeekFrom::Start(length.saturating_sub(SAMPLE) / 8 * i))?;
                let mut bytes = Vec::new();
                file.by_ref().take(SAMPLE / 8).read_to_end(&mut bytes)?;
                hasher.update(&bytes);
            }
            Ok(())
        };
        sample().map_err(io("read", &path))?;
    }
    Ok(format!("{:x}", hasher.finalize())[..16].to_owned())
}
