//! The `mlx-llamba` command, a thin layer over the libraries: one file per subcommand.

mod bench;
mod chat;
mod compare;
mod completions;
mod config;
mod constraint;
mod convert;
#[cfg(feature = "cuda")]
mod cuda;
mod distill;
mod doctor;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod early;
mod eval;
mod follow;
mod generate;
mod inspect;
mod interrupt;
mod logits;
mod man;
mod model;
mod models;
mod output;
mod perplexity;
mod places;
mod progress;
mod quantize;
mod resources;
mod rewrite;
mod sampling;
mod serve;
mod session;
mod settings;
mod synthesize;
mod template;
mod texts;
mod train;
mod training;

use std::io::Write;

use clap::{Parser, Subcommand};

/// Run, serve, quantize and distill Llamba recurrent language models
#[derive(Parser)]
#[command(name = "mlx-llamba", version, max_term_width = 80, after_help = after_help())]
struct Cli {
    /// Level of messages on standard error: off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", display_order = 998)]
    log_level: log::LevelFilter,
    #[command(subcommand)]
    command: Command,
}

/// Exit statuses and their meanings.
const EXIT_STATUS: [(u8, &str); 4] = [
    (SUCCESS, "success, also if the reader of the output closes it early"),
    (FAILURE, "failure"),
    (USAGE, "wrong arguments"),
    (INTERRUPTED, "interrupted by a signal; a clean shutdown of a server exits with 0"),
];
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
/// The status clap uses.
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  mlx-llamba generate \"Once upon a time\"
  mlx-llamba serve
  mlx-llamba generate --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct \"Rene Descartes was\"

Exit status:
";

/// Text shown below the options.
fn after_help() -> String {
    let statuses = EXIT_STATUS.map(|(status, meaning)| format!("  {status:3}  {meaning}"));
    format!("{EXAMPLES}{}", statuses.join("\n"))
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    #[command(visible_alias = "run")]
    Chat(Box<chat::Args>),
    Session(session::Args),
    Quantize(quantize::Args),
    Convert(convert::Args),
    Inspect(inspect::Args),
    Logits(logits::Args),
    Bench(bench::Args),
    Perplexity(perplexity::Args),
    Compare(compare::Args),
    Eval(eval::Args),
    Serve(Box<serve::Args>),
    Distill(Box<distill::Args>),
    Train(Box<train::Args>),
    Models(models::Args),
    Doctor(doctor::Args),
    Config(config::Args),
    Synthesize(Box<synthesize::Args>),
    Completions(completions::Args),
    Man(man::Args),
}

/// Lets MLX end a command buffer only after a number of operations, and not after 40 or 50 MB of their
/// inputs: an 8B model in bfloat16 would take 98 buffers a token, and takes 6. Small models end theirs by
/// the number of operations in any case.
#[cfg(target_os = "macos")]
fn large_command_buffers() {
    const MEGABYTES: &str = "MLX_MAX_MB_PER_BUFFER";
    if std::env::var_os(MEGABYTES).is_none() {
        // SAFETY: the process has one thread; MLX reads the variable when it first uses the GPU.
        unsafe { std::env::set_var(MEGABYTES, "4000") };
    }
}

fn main() -> ! {
    if resources::is_hardly_any_left() {
        let _ = std::io::stderr()
            .write_all(b"error: the address space is limited (ulimit -v); 700 MiB are needed\n");
        interrupt::end(FAILURE)
    }
    #[cfg(feature = "cuda")]
    cuda::start();
    #[cfg(target_os = "macos")]
    large_command_buffers();
    std::panic::set_hook(Box::new(|panic| {
        // The library turns panics of `tokenizers` into errors of its own.
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let level =
            if place.contains("tokenizers") { log::Level::Debug } else { log::Level::Error };
        let reason = panic.payload_as_str().unwrap_or("unknown").replace('\n', " ");
        log::log!(level, "internal error at {place}: {reason}");
    }));
    let status = std::panic::catch_unwind(run).unwrap_or(FAILURE);
    // There is no way left to report an error.
    let _ = std::io::stdout().flush();
    interrupt::end(status)
}

/// Runs the command and returns the status of the process.
fn run() -> u8 {
    let cli: Cli = match settings::parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("error: {}", output::describe(&error));
            return FAILURE;
        }
    };
    env_logger::Builder::new()
        .filter_level(cli.log_level)
        .format(|out, record| {
            writeln!(out, "{}: {}", record.level().as_str().to_lowercase(), record.args())
        })
        .init();
    #[cfg(feature = "cuda")]
    if !matches!(cli.command, Command::Doctor(_) | Command::Completions(_) | Command::Man(_)) {
        cuda::warn();
    }
    #[cfg(feature = "cuda")]
    cuda::settings(matches!(
        cli.command,
        Command::Distill(_) | Command::Train(_) | Command::Synthesize(_) | Command::Bench(_)
    ));
    let light = matches!(
        cli.command,
        Command::Doctor(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_)
    );
    let ready =
        if light { Ok(()) } else { interrupt::end_at_once().and_then(|()| resources::check()) };
    let result = ready.and_then(|()| match cli.command {
        Command::Generate(args) => args.run(),
        Command::Chat(args) => args.run(),
        Command::Session(args) => args.run(),
        Command::Quantize(args) => args.run(),
        Command::Convert(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Logits(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Perplexity(args) => args.run(),
        Command::Compare(args) => args.run(),
        Command::Eval(args) => args.run(),
        Command::Serve(args) => args.run(),
        Command::Distill(args) => args.run(),
        Command::Train(args) => args.run(),
        Command::Models(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Synthesize(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    });
    match result {
        Ok(()) if interrupt::happened() => INTERRUPTED,
        Ok(()) => SUCCESS,
        // The reader of our output has closed it.
        Err(error) if output::is_broken_pipe(&error) => SUCCESS,
        Err(_) if interrupt::happened() => INTERRUPTED,
        Err(error) => {
            eprintln!("error: {}", output::describe(&error));
            if output::is_usage(&error) { USAGE } else { FAILURE }
        }
    }
}
