//! The `mlx-llamba` command: thin, one file a subcommand.

mod bench;
mod chat;
mod compare;
mod completions;
mod convert;
mod distill;
mod eval;
mod follow;
mod generate;
mod inspect;
mod interrupt;
mod logits;
mod model;
mod output;
mod perplexity;
mod places;
mod progress;
mod quantize;
mod rewrite;
mod sampling;
mod serve;
mod session;
mod synthesize;
mod texts;
mod train;
mod training;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Llamba recurrent language models on MLX.
#[derive(Parser)]
#[command(name = "mlx-llamba", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Messages on standard error: off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    log_level: log::LevelFilter,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mlx-llamba generate \"Once upon a time\"
  mlx-llamba serve
  mlx-llamba generate --model cartesia-ai/Llamba-1B-4bit-mlx \\
      --tokenizer meta-llama/Llama-3.2-1B-Instruct \"Rene Descartes was\"

Exit status: 0 success, 1 failure, 2 impossible arguments, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
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
    Synthesize(Box<synthesize::Args>),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::new()
        .filter_level(cli.log_level)
        .format(|out, record| {
            use std::io::Write;
            writeln!(out, "{}: {}", record.level().as_str().to_lowercase(), record.args())
        })
        .init();
    let result = match cli.command {
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
        Command::Synthesize(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    match result {
        Ok(()) if interrupt::happened() => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(_) if interrupt::happened() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", output::describe(&error));
            ExitCode::FAILURE
        }
    }
}
