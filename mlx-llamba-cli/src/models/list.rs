//! `mlx-llamba models list`

use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use mlx_llamba::Checkpoint;
use mlx_llamba::hub::{self, CachedRevision};
use mlx_llamba::units;
use mlx_llamba_teacher::{TeacherSummary, is_teacher};
use serde_json::{Value, json};

use crate::output::{printable, show};

/// The contents of a revision's files.
struct Content {
    layout: String,
    bits: Option<f64>,
    parameters: Option<u64>,
    problem: Option<String>,
}

pub(super) fn list(cache: &Path, json: bool) -> Result<()> {
    let repos = hub::cached(cache)?;
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for repo in &repos {
        for revision in &repo.revisions {
            let content = content(revision);
            lines.push(line(&repo.name, revision, &content));
            rows.push(row(&repo.name, revision, &content));
        }
        if repo.revisions.is_empty() {
            lines.push([
                repo.name.clone(),
                String::new(),
                units::bytes(repo.bytes),
                "unfinished".to_owned(),
                String::new(),
                String::new(),
                String::new(),
            ]);
            rows.push(json!({
                "name": repo.name, "bytes": repo.bytes, "complete": false, "path": repo.path,
            }));
        }
    }
    if json {
        return show(&format!("{:#}\n", Value::from(rows)));
    }
    let bytes = repos.iter().map(|repo| repo.bytes).sum();
    let unfinished: u64 = repos.iter().map(|repo| repo.unfinished).sum();
    if !lines.is_empty() {
        let heads = ["MODEL", "REVISION", "SIZE", "LAYOUT", "BITS", "PARAMETERS", "DATE"];
        lines.insert(0, heads.map(str::to_owned));
        show(&table(&lines))?;
    }
    let rest = match unfinished {
        0 => String::new(),
        bytes => format!(", {} of it unfinished downloads", units::bytes(bytes)),
    };
    show(&format!("{} in {}{rest}\n", units::bytes(bytes), printable(&cache.display().to_string())))
}

fn content(revision: &CachedRevision) -> Content {
    let of = |layout: &str| Content {
        layout: layout.to_owned(),
        bits: None,
        parameters: None,
        problem: None,
    };
    if !revision.has_model {
        return of(if revision.has_tokenizer { "tokenizer" } else { "incomplete" });
    }
    if is_teacher(&revision.path) {
        return match TeacherSummary::of(&revision.path) {
            Ok(summary) => Content {
                bits: Some(summary.bits_per_weight),
                parameters: Some(summary.parameters),
                ..of("Llama")
            },
            Err(error) => Content { problem: Some(error.to_string()), ..of("unreadable") },
        };
    }
    match Checkpoint::open(&revision.path) {
        Ok(checkpoint) => Content {
            bits: Some(checkpoint.bits_per_weight()),
            parameters: Some(checkpoint.parameters()),
            ..of(&checkpoint.layout().to_string())
        },
        Err(error) => Content { problem: Some(error.to_string()), ..of("unreadable") },
    }
}

fn row(name: &str, revision: &CachedRevision, content: &Content) -> Value {
    json!({
        "name": name,
        "commit": revision.commit,
        "references": revision.references,
        "path": revision.path,
        "bytes": revision.bytes,
        "layout": content.layout,
        "bits_per_weight": content.bits,
        "parameters": content.parameters,
        "modified": revision.modified.and_then(timestamp).map(|at| at.to_string()),
        "complete": revision.has_model || revision.has_tokenizer,
        "has_model": revision.has_model,
        "has_tokenizer": revision.has_tokenizer,
        "problem": content.problem,
    })
}

fn line(name: &str, revision: &CachedRevision, content: &Content) -> [String; 7] {
    let commit: String = revision.commit.chars().take(8).collect();
    let revision_name = match &revision.references[..] {
        [] => commit,
        references => format!("{} ({commit})", references.join(", ")),
    };
    let date = revision.modified.and_then(timestamp);
    let with_tokenizer =
        if revision.has_model && revision.has_tokenizer { " + tokenizer" } else { "" };
    [
        name.to_owned(),
        revision_name,
        units::bytes(revision.bytes),
        format!("{}{with_tokenizer}", content.layout),
        content.bits.map_or(String::new(), |bits| format!("{bits:.2}")),
        content.parameters.map_or(String::new(), |n| format!("{:.2} M", n as f64 / 1e6)),
        date.map_or(String::new(), |at| at.strftime("%Y-%m-%d").to_string()),
    ]
}

fn timestamp(time: SystemTime) -> Option<jiff::Timestamp> {
    jiff::Timestamp::try_from(time).ok()
}

fn table(lines: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells =
            line.iter().zip(widths).map(|(cell, width)| format!("{:width$}", printable(cell)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
