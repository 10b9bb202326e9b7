//! `mlx-llamba models rm`

use std::io::{BufRead, IsTerminal};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::hub::{self, HubOptions, Removal};
use mlx_llamba::units;

use crate::output::{show, usage};

pub(super) fn remove(name: &str, all: bool, yes: bool) -> Result<()> {
    let cache = HubOptions::from_env()?.cache;
    let Some((repo, revision)) = hub::repository(name) else {
        usage!("{name} is not a repository; expected owner/name or owner/name@revision");
    };
    // This also removes what an earlier, killed removal left behind.
    hub::clean_up(&cache)?;
    let repos = hub::cached(&cache)?;
    let Some(found) = repos.iter().find(|cached| cached.name == repo) else {
        bail!("{repo} is not in the cache {}; see mlx-llamba models list", cache.display());
    };
    if revision.is_some() && all {
        usage!("{name} names a revision; omit that, or omit --all");
    }
    if found.revisions.len() > 1 && revision.is_none() && !all {
        let there: Vec<String> = found
            .revisions
            .iter()
            .map(|r| format!("{repo}@{}", r.references.first().unwrap_or(&r.commit)))
            .collect();
        bail!("{repo} has several revisions: name one ({}), or give --all", there.join(", "));
    }
    let removal = Removal::plan(found, revision)?;
    let freed = units::bytes(removal.bytes);
    if !yes && !confirmed(&format!("remove {name}, {freed}, from {}?", cache.display()))? {
        bail!("nothing was removed");
    }
    removal.run()?;
    show(&format!("{name} removed, {freed} freed\n"))
}

/// Asks for confirmation on the terminal.
fn confirmed(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{question} Input is not a terminal; --yes removes without asking");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("reading standard input")?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
