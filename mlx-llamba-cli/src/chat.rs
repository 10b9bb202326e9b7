//! `mlx-llamba chat`

mod command;
mod copies;
mod input;
mod running;
mod talk;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use mlx_llamba::{
    ChatOptions, EMBEDDED_MODEL, Generation, Json, Llamba, Session, SessionInfo, SnapshotBudget,
    Template,
};

use crate::model::ModelArgs;
use crate::sampling::SamplingArgs;
use crate::{interrupt, places};
use copies::{Copies, Copy};
use input::{Input, Line};
use running::Running;
use talk::Chat;

/// Talk to a model, and go back, fork and save at will
#[derive(clap::Args)]
#[command(after_help = "\
In the conversation, a line that begins with / is a command; /help lists them. Ctrl-C stops a
reply and keeps the session. When input is not a terminal, there are no prompts: each line is a
message, and the replies are all that is printed.

Examples:
  mlx-llamba chat --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct
  mlx-llamba chat --session rivers
  echo \"One day, Lily\" | mlx-llamba chat --temperature 0")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Go on with a saved session (a name or a file) or begin it; it is saved after every turn
    #[arg(short, long, value_name = "NAME")]
    session: Option<String>,
    /// A system message to begin with
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A jinja file, the name of one of the tokenizer's templates, or chatml, llama-3, plain
    #[arg(long, value_name = "TEMPLATE")]
    chat_template: Option<String>,
    /// A JSON file with a list of tools for the template
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// At most this many tokens in a reply
    #[arg(short = 'n', long, default_value_t = 1024)]
    max_tokens: usize,
    /// End replies before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// MiB of memory for places to go back to
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    snapshots: usize,
    /// Print speed and memory after every reply, on standard error
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    pub(crate) fn run(mut self) -> Result<()> {
        let file = self.session.as_deref().map(|name| places::session(name, None)).transpose()?;
        if let Some(file) = file.as_ref().filter(|file| file.exists()) {
            self.model.set_default(&SessionInfo::read(file)?.source);
        }
        let mut input = Input::open()?;
        let running = Running::default();
        running.listen()?;
        let llamba = self.model.load(true)?;
        let session = self.begin(&llamba, file.as_deref())?;
        let mut chat = Chat {
            llamba: &llamba,
            options: self.generation(),
            verbose: self.verbose,
            budget: SnapshotBudget { bytes: self.snapshots.saturating_mul(1 << 20) },
            name: self.model.name().to_owned(),
            copies: Copies::new(Copy { session, file }),
            last: None,
            written_anew: 0,
            running,
        };
        chat.running.begin(input.is_terminal());
        if input.is_terminal() {
            eprintln!("{}: /help lists what can be done, Ctrl-D ends.", chat.name);
            if chat.name == EMBEDDED_MODEL {
                eprintln!(
                    "This model tells stories and was never taught to chat: it goes on with what you write."
                );
            }
        }
        while let Line::Text(line) = input.next()? {
            match chat.take(&line) {
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
        Ok(())
    }

    fn generation(&self) -> Generation {
        let mut options = Generation::default().max_tokens(self.max_tokens);
        options.sampling = self.sampling.sampling();
        options.stop.clone_from(&self.stop);
        options
    }

    fn begin<'m>(&self, llamba: &'m Llamba, file: Option<&Path>) -> Result<Session<'m>> {
        let mut session = match file.filter(|file| file.exists()) {
            Some(file) => {
                if self.system.is_some() || self.chat_template.is_some() || self.tools.is_some() {
                    bail!(
                        "{} has its system message, template and tools already; /system changes \
                         the first",
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
                let mut session = llamba.session_with(self.template(llamba)?, options)?;
                if let Some(text) = &self.system {
                    session.push_system(text);
                }
                session
            }
        };
        session.set_source(self.model.name());
        session
            .set_snapshot_budget(SnapshotBudget { bytes: self.snapshots.saturating_mul(1 << 20) });
        Ok(session)
    }

    fn template(&self, llamba: &Llamba) -> Result<Template> {
        let tokenizer = llamba.require_tokenizer()?;
        let Some(name) = &self.chat_template else {
            return Ok(Template::of(tokenizer, None)?);
        };
        if Path::new(name).is_file() {
            let bytes = std::fs::read(name).with_context(|| format!("cannot read {name}"))?;
            let text = String::from_utf8(bytes).with_context(|| format!("{name} is not text"))?;
            return Ok(Template::new(name, &text, tokenizer)?);
        }
        match Template::builtin(name, tokenizer)? {
            Some(template) => Ok(template),
            None => Ok(Template::of(tokenizer, Some(name))?),
        }
    }
}

fn read_json(path: &Path) -> Result<Json> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Json::parse(&text).with_context(|| format!("{name} is not valid JSON"))
}
