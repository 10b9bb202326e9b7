//! `mlx-llamba chat`

mod command;
mod copies;
mod input;
mod running;
mod talk;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::session::SessionInfo;
use mlx_llamba::snapshots::SnapshotBudget;
use mlx_llamba::template::Json;
use mlx_llamba::{ChatOptions, EMBEDDED_MODEL, Generation, Llamba, Session};

use crate::constraint::{ConstraintArgs, constrain};
use crate::model::ModelArgs;
use crate::sampling::SamplingArgs;
use crate::template::TemplateArgs;
use crate::{interrupt, places};
use copies::{Copies, Copy};
use input::{Input, Line};
use running::Running;
use talk::Chat;

/// Chat with a model, with undo, forks and saved sessions
#[derive(clap::Args)]
#[command(after_help = "\
In the conversation, a line that begins with / is a command; /help lists them. Ctrl-C stops a reply \
and keeps the session. If input is not a terminal, each line is a message, and only the replies are \
printed.

Examples:
  mlx-llamba chat --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct
  mlx-llamba chat --session rivers
  mlx-llamba chat \"One day, Lily\"
  echo \"One day, Lily\" | mlx-llamba chat --temperature 0")]
pub(crate) struct Args {
    /// Answer this message and end
    message: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Session to continue or to start, a name or a file; it is saved after every turn
    #[arg(short, long, value_name = "NAME")]
    session: Option<String>,
    /// System message to start with
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    chat_template: TemplateArgs,
    /// JSON file with a list of tools for the template
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Maximum number of tokens in a reply
    #[arg(short = 'n', long, default_value_t = 1024)]
    max_tokens: usize,
    /// Stop replies before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Memory for snapshots to go back to, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    snapshots: usize,
    /// Print speed and memory after every reply, on standard error
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
}

impl Args {
    pub(crate) fn run(mut self) -> Result<()> {
        let file = self.session.as_deref().map(|name| places::session(name, None)).transpose()?;
        if let Some(file) = file.as_ref().filter(|file| file.exists()) {
            self.model.set_default(&SessionInfo::load(file)?.source);
        }
        let grammar = self.constraint.grammar()?;
        let input = if self.message.is_none() { Some(Input::open()?) } else { None };
        if let Some(Err(error)) = file.as_deref().map(copies::check_writable) {
            if self.message.is_some() {
                return Err(error);
            }
            // A long conversation may be saved later, when there is room.
            log::warn!("{}", crate::output::describe(&error));
        }
        let running = Running::default();
        running.listen()?;
        let llamba = self.model.load(true)?;
        let session = self.begin(&llamba, file.as_deref())?;
        let mut options = self.generation();
        options.sampling = self.sampling.sampling(llamba.tokenizer());
        constrain(&mut options, grammar.as_ref(), llamba.require_tokenizer()?)?;
        let mut chat = Chat {
            llamba: &llamba,
            options,
            verbose: self.verbose,
            budget: self.budget(),
            name: self.model.name().to_owned(),
            copies: Copies::new(Copy { session, file }),
            last: None,
            regenerated: 0,
            running,
        };
        let Some(mut input) = input else {
            chat.running.begin(false);
            chat.say(self.message.unwrap_or_default())?;
            if chat.running.over() {
                interrupt::note();
            }
            return Ok(());
        };
        chat.running.begin(input.is_terminal());
        if input.is_terminal() {
            eprintln!("{}: /help lists the commands, Ctrl-D ends the conversation.", chat.name);
            if chat.name == EMBEDDED_MODEL {
                eprintln!("This small model tells stories, of what you ask for.");
            }
        }
        while let Line::Text(line) = input.next()? {
            match command::take(&mut chat, &line) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if input.is_terminal() && !crate::output::is_broken_pipe(&error) => {
                    eprintln!("error: {}", crate::output::describe(&error));
                }
                Err(error) => return Err(error),
            }
            if chat.running.over() {
                interrupt::note();
                break;
            }
        }
        chat.copies.finish()
    }

    fn generation(&self) -> Generation {
        let mut options = Generation::default().max_tokens(self.max_tokens);
        options.stop.clone_from(&self.stop);
        options
    }

    fn begin<'m>(&self, llamba: &'m Llamba, file: Option<&Path>) -> Result<Session<'m>> {
        let mut session = match file.filter(|file| file.exists()) {
            Some(file) => {
                if self.system.is_some() || self.chat_template.is_given() || self.tools.is_some() {
                    bail!(
                        "{} already has its system message, template and tools; /system replaces \
                         the system message",
                        file.display()
                    );
                }
                Session::load(llamba, file)?
            }
            None => {
                let mut options = ChatOptions::default();
                if let Some(path) = &self.tools {
                    options.tools = Some(read_json(path)?);
                }
                let template = self.chat_template.find(llamba.require_tokenizer()?)?;
                let mut session = llamba.session_with(template, options)?;
                if let Some(text) = &self.system {
                    session.push_system(text);
                }
                session
            }
        };
        session.set_source(self.model.name());
        session.set_snapshot_budget(self.budget());
        Ok(session)
    }

    fn budget(&self) -> SnapshotBudget {
        SnapshotBudget::default().bytes(self.snapshots.saturating_mul(1 << 20))
    }
}

fn read_json(path: &Path) -> Result<Json> {
    let name = path.display();
    let text = mlx_llamba::files::read_text(path).with_context(|| format!("cannot read {name}"))?;
    Json::parse(&text).with_context(|| format!("{name} is not valid JSON"))
}
