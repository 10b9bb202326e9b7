//! `mlx-llamba serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mlx_llamba_engine::{Engine, LoadError, LoadedModel, Options as EngineOptions};
use mlx_llamba_server::{Limits, Loaded as LoadedLlamba, Options};
use mlx_llamba_teacher::Llama;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc::unbounded_channel;

use crate::model::{Loaded, ModelArgs};
use crate::template::TemplateArgs;

/// Serve a model over an OpenAI-compatible HTTP API
#[derive(clap::Args)]
#[command(after_help = "\
The first Ctrl-C or termination signal lets running requests finish, then exits with status 0; the \
second exits at once with status 130.

Examples:
  mlx-llamba serve
  mlx-llamba serve --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct \\
      --bind 0.0.0.0:8080 --api-key-file keys.txt
  curl http://127.0.0.1:8080/v1/completions \\
      -H 'Content-Type: application/json' \\
      -d '{\"model\": \"llamba-stories\", \"prompt\": \"Once upon a time\"}'")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on: a host, a port, or both; port 0 chooses a free port
    #[arg(short, long, value_name = "HOST:PORT", default_value_t = Options::default().bind, value_parser = mlx_llamba_server::parse_address)]
    bind: SocketAddr,
    /// Name of the model in answers; if given again, the further names are aliases [default: as
    /// --model]
    #[arg(long, value_name = "NAME")]
    served_name: Vec<String>,
    /// Refuse unknown parameters and other models' names, instead of ignoring them
    #[arg(long)]
    strict: bool,
    /// Require this API key; may be given more than once
    #[arg(long, value_name = "KEY", env = "MLX_LLAMBA_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// Require one of the API keys in this file, one per line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Allow web pages of this origin, or of any with *, to call the server; may be given more than
    /// once
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    #[command(flatten)]
    chat_template: TemplateArgs,
    /// Log prompts and replies
    #[arg(long)]
    log_prompts: bool,
    /// Also keep states of prompts and replies in this directory, for later runs of the server
    #[arg(long, value_name = "DIR")]
    cache_directory: Option<PathBuf>,
    /// Share cached prompts between API keys, and hide how many tokens of a prompt were cached
    #[arg(long)]
    share_cache: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Limits on requests, clients and memory.
#[derive(clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Maximum number of texts computed at once, if the memory for states allows [default: 64, and up
    /// to 512 while a step takes less than 0.1 seconds]
    #[arg(long, value_name = "N")]
    max_rows: Option<usize>,
    /// Memory for the states of texts computed at once, in MiB
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().state_memory >> 20)]
    state_memory: usize,
    /// Memory for states of earlier prompts and replies, in MiB; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().cache_memory >> 20)]
    cache_memory: usize,
    /// Disk space for such states in --cache-directory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().cache_disk >> 20)]
    cache_disk: u64,
    /// Maximum number of waiting texts; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().queue)]
    max_queue: usize,
    /// Maximum number of tokens in a prompt
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().prompt_tokens)]
    max_prompt_tokens: usize,
    /// Maximum number of tokens that a request may generate
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_tokens)]
    max_tokens: usize,
    /// Maximum number of texts that a request may ask for: prompts times n
    #[arg(long, value_name = "N", default_value_t = Limits::default().choices)]
    max_choices: usize,
    /// Maximum number of sessions, if the memory for them allows
    #[arg(long, value_name = "N", default_value_t = EngineOptions::default().sessions)]
    max_sessions: usize,
    /// Memory for sessions, in MiB: 17 states each, and their texts
    #[arg(long, value_name = "MIB", default_value_t = EngineOptions::default().session_memory >> 20)]
    session_memory: usize,
    /// Time without a request after which a new session may replace an old one, in seconds
    #[arg(long, value_name = "S", default_value_t = EngineOptions::default().session_idle.as_secs_f64(), value_parser = seconds)]
    session_idle: f64,
    /// Prompt chunk size, in tokens; other texts wait while a chunk is read [default: 256, or 1024 on
    /// a GPU]
    #[arg(long, value_name = "N")]
    prefill: Option<usize>,
    /// Maximum size of a request's body, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().body)]
    max_body: usize,
    /// Memory for requests on their way from the connection to the model, in MiB: bodies, their
    /// JSON, prompts and tokens, as estimated; more are refused with status 503 or 413
    #[arg(long, value_name = "MIB", default_value_t = Limits::default().memory >> 20)]
    request_memory: usize,
    /// Maximum number of open connections
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Maximum number of open connections of one address
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_address)]
    max_connections_per_address: usize,
    /// Time for a request's head to arrive, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().head_timeout.as_secs_f64(), value_parser = seconds)]
    head_timeout: f64,
    /// Time for a request's body to arrive, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().body_timeout.as_secs_f64(), value_parser = seconds)]
    body_timeout: f64,
    /// Time for a client to receive what is sent, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().write_timeout.as_secs_f64(), value_parser = seconds)]
    write_timeout: f64,
    /// Time for a whole request, in seconds
    #[arg(long, value_name = "S", default_value_t = EngineOptions::default().request_timeout.as_secs_f64(), value_parser = seconds)]
    request_timeout: f64,
    /// Interval between two keep-alive messages in a stream, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().keep_alive.as_secs_f64(), value_parser = seconds)]
    keep_alive: f64,
    /// Time for running requests to finish after Ctrl-C, in seconds
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
        return_large_buffers();
        let (stop, mut stopped) = unbounded_channel();
        let serving = Arc::new(AtomicBool::new(false));
        on_signal(serving.clone(), move || {
            // Nobody listens once the server has ended.
            let _ = stop.send(());
        })?;
        if !options.bind.ip().is_loopback() && options.api_keys.is_empty() {
            log::warn!(
                "{} can be reached from other machines, and no API key is required",
                options.bind
            );
        }
        let name = options.model.clone();
        let ready = move |address| {
            serving.store(true, Ordering::Relaxed);
            eprintln!("serving {name} at http://{address}");
        };
        let stopped = async move {
            stopped.recv().await;
        };
        let (model, template) = (self.model, self.chat_template);
        if model.teacher()?.is_some() {
            let load = move || -> Result<LoadedModel<Llama>> {
                let loaded = model.load_any(true)?;
                let tokenizer = loaded.require_tokenizer()?.clone();
                let chosen = template.is_given().then(|| template.find(&tokenizer)).transpose()?;
                match loaded {
                    Loaded::Teacher(teacher) => {
                        Ok(LoadedModel::new(teacher.into_parts().0, tokenizer, chosen)?)
                    }
                    Loaded::Llamba(_) => bail!("the model has changed"),
                }
            };
            let load = move || load().map_err(LoadError::from);
            let start = |options| Engine::start_model_blocking(load, options);
            return Ok(mlx_llamba_server::serve_engine(options, start, ready, stopped)?);
        }
        let builder = model.text_builder()?;
        let load = move || {
            let llamba = builder.load()?;
            if !template.is_given() {
                return LoadedLlamba::new(llamba);
            }
            let template = Some(template.find(llamba.require_tokenizer()?)?);
            Ok(LoadedLlamba { llamba, template })
        };
        Ok(mlx_llamba_server::serve(options, load, ready, stopped)?)
    }

    fn options(&self) -> Result<Options> {
        let mut api_keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let name = path.display();
            let text = mlx_llamba::files::read_text(path);
            let text = text.with_context(|| format!("cannot read {name}"))?;
            let before = api_keys.len();
            api_keys.extend(text.lines().map(str::trim).filter(|k| !k.is_empty()).map(Into::into));
            if api_keys.len() == before {
                bail!("{name} has no keys; expected one per line");
            }
        }
        let limits = &self.limits;
        let duration = Duration::from_secs_f64;
        let mebibytes = |n: usize| n.saturating_mul(1 << 20);
        let mut engine = EngineOptions::default()
            .state_memory(mebibytes(limits.state_memory))
            .cache_memory(mebibytes(limits.cache_memory))
            .cache_disk(limits.cache_disk.saturating_mul(1 << 20))
            .queue(limits.max_queue)
            .prompt_tokens(limits.max_prompt_tokens)
            .sessions(limits.max_sessions)
            .session_memory(mebibytes(limits.session_memory))
            .session_idle(duration(limits.session_idle))
            .request_timeout(duration(limits.request_timeout));
        engine.rows = limits.max_rows;
        engine.prefill = limits.prefill;
        engine.cache_directory = self.cache_directory.clone();
        let mut names = self.served_name.iter();
        let model = names.next().map_or_else(|| self.model.name().to_owned(), Clone::clone);
        Ok(Options::default()
            .bind(self.bind)
            .model(model)
            .aliases(names.cloned().collect::<Vec<_>>())
            .strict(self.strict)
            .api_keys(api_keys)
            .cors(self.cors.clone())
            .log_prompts(self.log_prompts)
            .share_cache(self.share_cache)
            .engine(engine)
            .limits(
                Limits::default()
                    .body(limits.max_body)
                    .max_tokens(limits.max_tokens)
                    .choices(limits.max_choices)
                    .memory(mebibytes(limits.request_memory))
                    .connections(limits.max_connections)
                    .connections_per_address(limits.max_connections_per_address)
                    .head_timeout(duration(limits.head_timeout))
                    .body_timeout(duration(limits.body_timeout))
                    .write_timeout(duration(limits.write_timeout))
                    .keep_alive(duration(limits.keep_alive))
                    .grace(duration(limits.grace)),
            ))
    }
}

/// Lets the system have the memory of large bodies back as soon as they are freed. The allocator
/// otherwise keeps buffers of that size once it has freed one of them.
fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes numbers; no other thread has begun to allocate for requests.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
    }
}

/// Calls `stop` at the first Ctrl-C or termination signal. Before the server runs, and at the
/// second signal, the process exits.
fn on_signal(serving: Arc<AtomicBool>, stop: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new(crate::interrupt::wanted(&[SIGINT, SIGTERM]))
        .context("cannot listen for Ctrl-C")?;
    crate::interrupt::spawn(move || {
        for _ in signals.forever() {
            if !serving.swap(false, Ordering::Relaxed) {
                crate::interrupt::end(crate::INTERRUPTED);
            }
            stop();
        }
    })?;
    crate::interrupt::handled();
    Ok(())
}
