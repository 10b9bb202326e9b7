//! `mlx-llamba serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mlx_llamba::{Llamba, Template};
use mlx_llamba_engine::Options as EngineOptions;
use mlx_llamba_server::{Limits, Loaded, Options};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc::unbounded_channel;

use crate::model::ModelArgs;

/// Serve a model over HTTP, as OpenAI's servers do
#[derive(clap::Args)]
#[command(after_help = "\
The first Ctrl-C, or termination signal, lets running requests end and ends with status 0; the second
ends at once, with 130.

Examples:
  mlx-llamba serve
  mlx-llamba serve --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct --bind 0.0.0.0:8080 --api-key-file keys.txt
  curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\
      -d '{\"model\": \"llamba-stories\", \"prompt\": \"Once upon a time\", \"max_tokens\": 40}'")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on; port 0 takes a free one
    #[arg(short, long, value_name = "ADDRESS:PORT", default_value_t = Options::default().bind)]
    bind: SocketAddr,
    /// The name that requests call the model by [default: as --model]
    #[arg(long, value_name = "NAME")]
    served_name: Option<String>,
    /// Ask for this key; may be given more than once
    #[arg(long, value_name = "KEY", env = "MLX_LLAMBA_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// Ask for one of the keys in this file, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let pages of this origin call the server from a browser, or any with *; may be given more
    /// than once
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Chat template: a file, or one of chatml, llama-3 and plain [default: the tokenizer's]
    #[arg(long, value_name = "FILE|NAME")]
    chat_template: Option<String>,
    /// Write prompts and replies to the log
    #[arg(long)]
    log_prompts: bool,
    /// Keep states of prompts and replies in this directory too, for this server and later ones
    #[arg(long, value_name = "DIR")]
    cache_directory: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What no request, client or moment may exceed.
#[derive(clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Texts that are computed at once, if the memory for states allows
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().rows)]
    max_rows: usize,
    /// Memory for the states of what is computed at once, in MiB
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().state_memory >> 20)]
    state_memory: usize,
    /// Memory for states of earlier prompts and replies, in MiB; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().cache_memory >> 20)]
    cache_memory: usize,
    /// Room for such states in the directory for them, in MiB
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().cache_disk >> 20)]
    cache_disk: u64,
    /// Texts that wait for their turn; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().queue)]
    max_queue: usize,
    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().prompt_tokens)]
    max_prompt_tokens: usize,
    /// Tokens that a request may generate
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_tokens)]
    max_tokens: usize,
    /// Texts that a request may ask for: prompts times n
    #[arg(long, value_name = "N", default_value_t = Limits::default().choices)]
    max_choices: usize,
    /// Sessions kept, if the memory for them allows
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().sessions)]
    max_sessions: usize,
    /// Memory for the states of sessions, in MiB: 17 states each
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().session_memory >> 20)]
    session_memory: usize,
    /// After so long without a request a session makes room for a new one, in seconds
    #[arg(long, value_name = "S", default_value_t = EngineOptions::default().session_idle.as_secs_f64(), value_parser = seconds)]
    session_idle: f64,
    /// Tokens of a prompt read in one piece, while other texts wait for theirs
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().prefill)]
    prefill: usize,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().body)]
    max_body: usize,
    /// Open connections
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// For a request's head to arrive, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().head_timeout.as_secs_f64(), value_parser = seconds)]
    head_timeout: f64,
    /// For a request's body to arrive, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().body_timeout.as_secs_f64(), value_parser = seconds)]
    body_timeout: f64,
    /// For a client to take what is sent, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().write_timeout.as_secs_f64(), value_parser = seconds)]
    write_timeout: f64,
    /// For a whole request, in seconds
    #[arg(long, value_name = "S", default_value_t = EngineOptions::default().request_timeout.as_secs_f64(), value_parser = seconds)]
    request_timeout: f64,
    /// Between two signs of life in a stream, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().keep_alive.as_secs_f64(), value_parser = seconds)]
    keep_alive: f64,
    /// For running requests to end after Ctrl-C, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().grace.as_secs_f64(), value_parser = seconds)]
    grace: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (0.001..=1e6).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0.001 to 1000000 seconds".to_owned())
    }
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let options = self.options()?;
        let (stop, mut stopped) = unbounded_channel();
        let serving = Arc::new(AtomicBool::new(false));
        on_signal(serving.clone(), move || {
            // Nobody listens any more once the server has ended.
            let _ = stop.send(());
        })?;
        if !options.bind.ip().is_loopback() && options.api_keys.is_empty() {
            log::warn!("{} can be reached from elsewhere and asks for no API key", options.bind);
        }
        let (model, template) = (self.model, self.chat_template);
        let load = move || {
            let llamba = model.builder().load()?;
            let Some(wanted) = template else { return Loaded::new(llamba) };
            let template = Some(read_template(&llamba, &wanted)?);
            Ok(Loaded { llamba, template })
        };
        let name = options.model.clone();
        let ready = move |address| {
            serving.store(true, Ordering::Relaxed);
            eprintln!("serving {name} at http://{address}");
        };
        let stopped = async move {
            stopped.recv().await;
        };
        Ok(mlx_llamba_server::serve(options, load, ready, stopped)?)
    }

    fn options(&self) -> Result<Options> {
        let mut api_keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let name = path.display();
            let text = std::fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read {name}"))?;
            let before = api_keys.len();
            api_keys.extend(text.lines().map(str::trim).filter(|k| !k.is_empty()).map(Into::into));
            if api_keys.len() == before {
                bail!("{name} has no keys: one a line is expected");
            }
        }
        let limits = &self.limits;
        let duration = Duration::from_secs_f64;
        let mebibytes = |n: usize| n.saturating_mul(1 << 20);
        let mut engine = EngineOptions::default();
        engine.rows = limits.max_rows;
        engine.state_memory = mebibytes(limits.state_memory);
        engine.cache_memory = mebibytes(limits.cache_memory);
        engine.cache_directory = self.cache_directory.clone();
        engine.cache_disk = limits.cache_disk.saturating_mul(1 << 20);
        engine.queue = limits.max_queue;
        engine.prompt_tokens = limits.max_prompt_tokens;
        engine.prefill = limits.prefill;
        engine.sessions = limits.max_sessions;
        engine.session_memory = mebibytes(limits.session_memory);
        engine.session_idle = duration(limits.session_idle);
        engine.request_timeout = duration(limits.request_timeout);
        Ok(Options {
            bind: self.bind,
            model: self.served_name.clone().unwrap_or_else(|| self.model.name().to_owned()),
            api_keys,
            cors: self.cors.clone(),
            log_prompts: self.log_prompts,
            engine,
            limits: Limits {
                body: limits.max_body,
                max_tokens: limits.max_tokens,
                choices: limits.max_choices,
                connections: limits.max_connections,
                head_timeout: duration(limits.head_timeout),
                body_timeout: duration(limits.body_timeout),
                write_timeout: duration(limits.write_timeout),
                keep_alive: duration(limits.keep_alive),
                grace: duration(limits.grace),
            },
        })
    }
}

/// Calls `stop` at the first Ctrl-C or termination signal; before there is something to stop, and
/// at the second one, the process ends.
fn on_signal(serving: Arc<AtomicBool>, stop: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for Ctrl-C")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if !serving.swap(false, Ordering::Relaxed) {
                crate::interrupt::end();
            }
            stop();
        }
    });
    Ok(())
}

/// Reads a chat template: a file, or one of the built-in ones.
fn read_template(llamba: &Llamba, wanted: &str) -> mlx_llamba::Result<Template> {
    let tokenizer = llamba.require_tokenizer()?;
    if let Some(template) = Template::builtin(wanted, tokenizer)? {
        return Ok(template);
    }
    let source = std::fs::read_to_string(wanted).map_err(|source| mlx_llamba::Error::Io {
        action: "read",
        path: wanted.into(),
        source,
    })?;
    Template::new(wanted, &source, tokenizer)
}
