//! Checks of configuration, directories, variables and terminal.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use mlx_llamba::hub;
use mlx_llamba::units;
use serde_json::json;

use super::Finding;
use crate::output::plain;
use crate::places;
use crate::settings::{self, Settings};

pub(super) fn look() -> Vec<Finding> {
    let mut found = vec![config()];
    found.extend(variables());
    found.push(cache());
    found.push(match places::data() {
        Ok(directory) => directory_of("data", &directory, "MLX_LLAMBA_DATA"),
        Err(error) => Finding::problem("data", error.to_string(), "set MLX_LLAMBA_DATA"),
    });
    let named = |what: &str, is: bool| format!("{what} {} terminal", if is { "a" } else { "no" });
    let out = named("standard output is", std::io::stdout().is_terminal());
    let err = named("standard error is", std::io::stderr().is_terminal());
    let text = format!("{out}, {err}; progress bars need one");
    found.push(Finding::good("terminal", text));
    found
}

fn config() -> Finding {
    let (file, named) = match settings::place() {
        Ok(place) => place,
        Err(error) => return Finding::warning("config", error.to_string(), "set HOME"),
    };
    let settings = match Settings::read(&crate::Cli::command()) {
        Ok(settings) => settings,
        Err(error) => {
            return Finding::problem(
                "config",
                crate::output::describe(&error),
                "correct it: other commands refuse to run. See mlx-llamba config --help",
            );
        }
    };
    let there =
        if file.exists() || named { "" } else { " (none; mlx-llamba config init creates one)" };
    let mut text = format!("{}{there}", file.display());
    let mut details = Vec::new();
    for setting in settings.all() {
        let option = match &setting.scope[..] {
            [] => setting.option.clone(),
            scope => format!("{} {}", scope.join(" "), setting.option),
        };
        // Values may be secret, and are not shown; config show hides only those that are.
        text += &format!("\n{option}: {}", setting.origin);
        details.push(json!({ "option": option, "origin": setting.origin.to_string() }));
    }
    Finding::good("config", text).with(json!({ "file": file, "settings": details }))
}

/// Finds variables with our prefix that nothing reads, which are probably misspelled.
fn variables() -> Option<Finding> {
    let known = settings::variables(&crate::Cli::command());
    let unknown = std::env::vars_os().filter_map(|(name, _)| {
        let name = name.to_string_lossy().into_owned();
        (name.starts_with("MLX_LLAMBA_") && !known.contains(&name)).then_some(name)
    });
    let mut unknown: Vec<String> = unknown.collect();
    unknown.sort();
    (!unknown.is_empty()).then(|| {
        Finding::warning(
            "variables",
            format!("nothing reads {}", unknown.join(", ")),
            "check the spelling: MLX_LLAMBA_OPTION or MLX_LLAMBA_COMMAND_OPTION",
        )
    })
}

/// Checks the hub's cache.
fn cache() -> Finding {
    let options = match hub::HubOptions::from_env() {
        Ok(options) => options,
        Err(error) => return Finding::problem("cache", error.to_string(), "set HF_HOME"),
    };
    let finding = directory_of("cache", &options.cache, "HF_HOME or HF_HUB_CACHE");
    match hub::cached(&options.cache) {
        _ if finding.help.is_some() => finding,
        Ok(repos) => {
            let bytes: u64 = repos.iter().map(|repo| repo.bytes).sum();
            let text = format!(
                "{}: {} of models and tokenizers in {} {}",
                finding.text,
                units::bytes(bytes),
                repos.len(),
                if repos.len() == 1 { "repository" } else { "repositories" }
            );
            let details =
                json!({ "directory": options.cache, "bytes": bytes, "repositories": repos.len() });
            Finding::good("cache", text).with(details)
        }
        Err(error) => Finding::problem("cache", error.to_string(), "make it readable"),
    }
}

/// Checks that a directory can be written, or created when it is needed.
fn directory_of(topic: &'static str, directory: &Path, variable: &str) -> Finding {
    let name = directory.display();
    let there = directory.exists();
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists());
    let nearest = nearest.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let nearest = if nearest == Path::new("") { PathBuf::from(".") } else { nearest };
    let details = json!({ "directory": directory });
    match tempfile::tempfile_in(&nearest) {
        Ok(_) if there => Finding::good(topic, name.to_string()),
        Ok(_) => Finding::good(topic, format!("{name} (created when needed)")),
        Err(error) => Finding::problem(
            topic,
            format!("{name} cannot be written: {}: {}", nearest.display(), plain(error)),
            format!("make {} writable, or set {variable} to another directory", nearest.display()),
        ),
    }
    .with(details)
}
