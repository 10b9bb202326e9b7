//! `mlx-llamba generate`

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use mlx_llamba::kernels::Backend;
use mlx_llamba::units::count;
use mlx_llamba::{
    ChatOptions, Context, Event, Generation, LanguageModel, Llamba, Message, Prompt, Reason, Stats,
    Stream, Tokenizer,
};
use mlx_llamba_teacher::Teacher;

use crate::constraint::{ConstraintArgs, constrain};
use crate::follow::follow;
use crate::interrupt;
use crate::model::{Loaded, ModelArgs};
use crate::output::{check_parent, show, usage};
use crate::progress::{Progress, Unit};
use crate::sampling::SamplingArgs;
use crate::settings::Typed;
use crate::template::TemplateArgs;

/// Continue a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mlx-llamba generate \"Once upon a time\"
  mlx-llamba generate --temperature 0 --max-tokens 50 --json \"The little rabbit\"
  echo \"One day\" | mlx-llamba generate --echo -
  mlx-llamba generate --chat --chat-template chatml \"Name three rivers.\"
  mlx-llamba generate --regex \"a (red|blue) (ball|boat)\" \"Lily had \"
  mlx-llamba generate --state-out story.state \"Lily found a key.\"
  mlx-llamba generate --state-in story.state \" The next day\"
  tail -f server.log | mlx-llamba generate --follow --state-out log.state")]
pub(crate) struct Args {
    /// The text to continue; - reads it from standard input, without a line end at its end
    #[arg(conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// Read the text from a file
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Answer the text as a message, with the chat template of the model
    #[arg(long, conflicts_with_all = ["follow", "echo"])]
    chat: bool,
    #[command(flatten)]
    chat_template: Typed<TemplateArgs>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print the prompt before its continuation
    #[arg(long)]
    echo: bool,
    /// Print events as lines of JSON instead of text
    #[arg(long)]
    json: bool,
    /// Print speed and memory at the end, on standard error
    #[arg(short, long)]
    verbose: bool,
    /// Continue from a saved state instead of an empty one
    #[arg(long, value_name = "FILE")]
    state_in: Option<PathBuf>,
    /// Save the state after the last token
    #[arg(long, value_name = "FILE")]
    state_out: Option<PathBuf>,
    /// Maximum number of tokens to generate
    #[arg(short = 'n', long, allow_negative_numbers = true, default_value_t = 256)]
    max_tokens: usize,
    /// Stop before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Continue after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Report the log-probabilities of the N most likely tokens (with --json)
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    /// Prompt chunk size, in tokens [default: 512, or 2048 on a GPU]
    #[arg(long, value_name = "N")]
    prefill: Option<usize>,
    /// Read standard input as it arrives, without end, and report how well it is predicted
    #[arg(long, conflicts_with_all = ["prompt", "prompt_file", "echo", "logprobs", "stop", "ConstraintArgs"])]
    follow: bool,
    /// Tokens between two reports, with --follow
    #[arg(
        long, value_name = "N", default_value_t = 1000, requires = "follow",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    every: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let prompt = if self.follow { String::new() } else { self.prompt()? };
        if let Some(path) = &self.state_out {
            check_parent(path)?;
        }
        let grammar = self.constraint.grammar()?;
        let mut options = self.options();
        let cancel = options.cancel.clone();
        let loaded = self.model.load_any(true)?;
        options.sampling = self.sampling.sampling(loaded.tokenizer());
        if grammar.is_some() {
            constrain(&mut options, grammar.as_ref(), loaded.require_tokenizer()?)?;
        }
        let asked = if self.chat || self.chat_template.has("chat_template") {
            Some(self.asked(&prompt, loaded.require_tokenizer()?)?)
        } else {
            None
        };
        let prompt = asked.as_ref().map_or_else(|| Prompt::from(&prompt), Prompt::from);
        interrupt::on_first(move || cancel.cancel())?;
        match loaded {
            Loaded::Llamba(llamba) => self.run_llamba(&llamba, prompt, &options),
            Loaded::Teacher(teacher) => self.run_teacher(&teacher, prompt, &options),
        }
    }

    /// The tokens of a conversation that begins with this message.
    fn asked(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let template = self.chat_template.options.find(tokenizer)?;
        let messages = [Message::new("user", text)];
        let rendered = template.render(&messages, true, &ChatOptions::default())?;
        Ok(tokenizer.encode_rendered(&rendered)?)
    }

    fn run_llamba(&self, llamba: &Llamba, prompt: Prompt<'_>, options: &Generation) -> Result<()> {
        let context = match &self.state_in {
            Some(path) => Context::load(llamba.model(), path)?,
            None => llamba.context()?,
        };
        if self.follow {
            let reached = follow(llamba, context, self.every, self.json, &options.cancel)?;
            return match &self.state_out {
                Some(path) => Ok(reached.save(llamba.model(), path)?),
                None => Ok(()),
            };
        }
        let shown = self.shown(&prompt);
        let mut stream = llamba.resume(context, prompt, options)?;
        self.print(&shown, &mut stream, llamba.model().backend())?;
        match &self.state_out {
            Some(path) => Ok(stream.into_context()?.save(llamba.model(), path)?),
            None => Ok(()),
        }
    }

    fn run_teacher(
        &self,
        teacher: &Teacher,
        prompt: Prompt<'_>,
        options: &Generation,
    ) -> Result<()> {
        if self.state_in.is_some() || self.state_out.is_some() {
            bail!("a Transformer keeps its whole text: only the state of a Llamba can be saved");
        }
        if self.follow {
            bail!("a Transformer keeps its whole text: only a Llamba reads without end");
        }
        let shown = self.shown(&prompt);
        let mut stream = teacher.resume(teacher.context()?, prompt, options)?;
        self.print(&shown, &mut stream, teacher.llama().backend())
    }

    /// The text to show before the continuation.
    fn shown(&self, prompt: &Prompt<'_>) -> String {
        match prompt {
            Prompt::Text(text) if self.echo => text.clone().into_owned(),
            _ => String::new(),
        }
    }

    /// Prints all events.
    fn print<M: LanguageModel>(
        &self,
        prompt: &str,
        stream: &mut Stream<'_, M>,
        backend: Backend,
    ) -> Result<()> {
        if !self.json {
            show(prompt)?;
        }
        let reading = Progress::new("reading", Unit::Tokens);
        for event in stream {
            self.show(&event?, &reading, backend)?;
        }
        Ok(())
    }

    fn show(&self, event: &Event, reading: &Progress, backend: Backend) -> Result<()> {
        if let Event::Prefill { read, total } = event {
            reading.at(*read, *total);
        }
        if self.json {
            show(&(serde_json::to_string(event)? + "\n"))?;
        } else {
            show(event.text())?;
        }
        if let Event::End { reason, stats, .. } = event {
            if !self.json {
                show("\n")?;
            }
            if self.verbose {
                eprintln!("{} | {}", summary(reason, stats), backend.report());
            }
        }
        Ok(())
    }

    fn prompt(&self) -> Result<String> {
        let mut bytes = Vec::new();
        let name = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) if text != "-" => return Ok(text.clone()),
            (Some(_), _) => {
                std::io::stdin()
                    .lock()
                    .read_to_end(&mut bytes)
                    .context("reading standard input")?;
                // A shell's commands end what they print with one.
                if bytes.pop_if(|byte| *byte == b'\n').is_some() {
                    bytes.pop_if(|byte| *byte == b'\r');
                    log::warn!("the line end at the end of standard input is left out");
                }
                "standard input".to_owned()
            }
            (None, Some(path)) => {
                let name = path.display().to_string();
                bytes =
                    mlx_llamba::files::read(path).with_context(|| format!("cannot read {name}"))?;
                name
            }
            (None, None) if self.state_in.is_some() => return Ok(String::new()),
            (None, None) => usage!("nothing to continue: give a prompt, -, or --prompt-file"),
        };
        String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))
    }

    fn options(&self) -> Generation {
        let mut options = Generation::default().max_tokens(self.max_tokens);
        options.stop.clone_from(&self.stop);
        options.eos = self.ignore_eos.then(Vec::new);
        // A default may set --logprobs without --json.
        options.logprobs = self.logprobs.filter(|_| self.json);
        options.prefill = self.prefill;
        options
    }
}

/// Formats the statistics of a generation as one line.
pub(crate) fn summary(reason: &Reason, stats: &Stats) -> String {
    let reason = match reason {
        Reason::Eos(id) => format!("end of text ({id})"),
        Reason::Stop(text) => format!("stop string {text:?}"),
        Reason::Complete => "the end of its grammar".into(),
        Reason::Constraint(reason) => format!("its constraint ({reason})"),
        Reason::Length => "length".into(),
        Reason::Cancelled => "cancelled".into(),
        _ => "other".into(),
    };
    format!(
        "prompt: {}, {:.1} tok/s | generated: {}, {:.1} tok/s | first token after \
         {:.3} s | peak memory {:.1} MiB | seed {} | ended by {reason}",
        count(stats.prompt_tokens as u64, "token"),
        stats.prompt_tokens_per_second,
        count(stats.generated_tokens as u64, "token"),
        stats.decode_tokens_per_second,
        stats.time_to_first_token,
        stats.peak_memory as f64 / f64::from(1 << 20),
        stats.seed,
    )
}
