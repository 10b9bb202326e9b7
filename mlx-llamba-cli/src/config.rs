//! `mlx-llamba config`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Arg, CommandFactory as _, Subcommand};
use serde_json::{Value, json};

use crate::output::{printable, show, usage};
use crate::settings::{self, Settings};

/// Show or create the configuration file: defaults for options
#[derive(clap::Args)]
#[command(after_help = "\
The file is $MLX_LLAMBA_CONFIG, or mlx-llamba/config.toml in the system's configuration directory. \
Its keys are the long names of options, for all commands or, under [COMMAND], for one:

  model = \"cartesia-ai/Llamba-1B-4bit-mlx\"
  tokenizer = \"meta-llama/Llama-3.2-1B-Instruct\"
  [generate]
  max-tokens = 500

The same in the environment: MLX_LLAMBA_MODEL, MLX_LLAMBA_GENERATE_MAX_TOKENS. The command line \
overrides the environment, the environment overrides the file, and a command's own default overrides \
the one for all commands.

A default yields to a conflicting option and is ignored where an option it requires is missing. \
--json=false turns off a flag that a default turns on. A default tokenizer is used only for models \
that have none.

Examples:
  mlx-llamba config init
  mlx-llamba config show
  mlx-llamba config show generate
  MLX_LLAMBA_TEMPERATURE=0 mlx-llamba generate \"Once upon a time\"")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the path of the file, which need not exist
    #[command(after_help = "Example:\n  $EDITOR \"$(mlx-llamba config path)\"")]
    Path,
    /// Show what is set, or all options of a command, and where each value comes from
    #[command(after_help = "Example:\n  mlx-llamba config show serve --json")]
    Show {
        /// A command, such as generate or session list
        #[arg(value_name = "COMMAND")]
        path: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a file to start from, with everything commented out
    #[command(after_help = "Example:\n  mlx-llamba config init")]
    Init,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Path => show(&format!("{}\n", settings::place()?.0.display())),
            Command::Show { path, json } => show_settings(&path, json),
            Command::Init => init(),
        }
    }
}

/// A value in force.
struct InForce {
    path: Vec<String>,
    option: String,
    value: String,
    origin: String,
}

fn show_settings(wanted: &[String], json: bool) -> Result<()> {
    let command = crate::Cli::command();
    let settings = Settings::read(&command)?;
    let mut at = &command;
    for name in wanted {
        let Some(inner) = at.find_subcommand(name) else {
            usage!("{} is not a command; see mlx-llamba --help", wanted.join(" "));
        };
        at = inner;
    }
    let mut all = Vec::new();
    let options = settings::options(&command).into_iter();
    for (path, arg) in options.filter(|(path, _)| path.starts_with(wanted)) {
        let (value, origin) = match settings.find(&path, arg) {
            Some((setting, values)) => (values.join(" "), setting.origin.to_string()),
            None if wanted.is_empty() => continue,
            None => (built_in(arg), "built in".to_owned()),
        };
        let value = if arg.is_hide_env_values_set() { "(hidden)".to_owned() } else { value };
        let option = arg.get_long().unwrap_or_default().to_owned();
        all.push(InForce { path, option, value, origin });
    }
    if json {
        return show(&format!("{:#}\n", as_json(&all)?));
    }
    if all.is_empty() {
        let file = settings::place()?.0;
        return show(&format!(
            "nothing is set, neither in the environment nor in {}\n",
            file.display()
        ));
    }
    // One line for a value that many commands have from the same place.
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for found in all {
        let line = format!("{} = {}  ({})", found.option, printable(&found.value), found.origin);
        let name = if found.path.is_empty() { "all".to_owned() } else { found.path.join(" ") };
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, names)) => names.push(name),
            None => lines.push((line, vec![name])),
        }
    }
    for (line, names) in lines {
        match wanted {
            [] => show(&format!("{line}: {}\n", names.join(", ")))?,
            _ => show(&format!("{line}\n"))?,
        }
    }
    Ok(())
}

fn built_in(arg: &Arg) -> String {
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let values = values.collect::<Vec<_>>().join(" ");
    if values.is_empty() && !arg.get_action().takes_values() { "false".to_owned() } else { values }
}

fn as_json(all: &[InForce]) -> Result<Value> {
    let mut commands: BTreeMap<String, BTreeMap<&str, Value>> = BTreeMap::new();
    for found in all {
        let options = commands.entry(found.path.join(" ")).or_default();
        let value = json!({ "value": found.value, "origin": found.origin });
        options.insert(&found.option, value);
    }
    Ok(json!({ "file": settings::place()?.0, "commands": commands }))
}

const TEMPLATE: &str = "\
# Defaults for the options of mlx-llamba. Keys are the long names of options; these apply to all
# commands that have them. mlx-llamba config show lists the values in force.

# model = \"cartesia-ai/Llamba-1B-4bit-mlx\"
# For models without a tokenizer.
# tokenizer = \"meta-llama/Llama-3.2-1B-Instruct\"
# device = \"cpu\"
# offline = true
# temperature = 0.7
# log-level = \"info\"

# Defaults for one command.
# [generate]
# max-tokens = 500
# stop = [\"THE END\", \"The End\"]

# [serve]
# bind = \"127.0.0.1:8080\"
";

fn init() -> Result<()> {
    let (file, _): (PathBuf, _) = settings::place()?;
    let name = file.display();
    if let Some(directory) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    // Written completely under another name first; an existing file is never replaced.
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    let made =
        std::fs::write(&partial, TEMPLATE).and_then(|()| std::fs::hard_link(&partial, &file));
    // The link, if it was made, keeps the content.
    let _ = std::fs::remove_file(&partial);
    match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{name} already exists; edit it, or remove it first")
        }
        made => made.with_context(|| format!("cannot write {name}"))?,
    }
    show(&format!("{name}\n"))
}
