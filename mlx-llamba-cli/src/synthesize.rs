//! `mlx-llamba synthesize`

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use mlx_llamba::units::count;
use mlx_llamba::{LanguageModel, Sampling, Tokenizer};
use mlx_llamba_mohawk::Error;
use mlx_llamba_mohawk::synthesize::{Job, Options, prompts, synthesize};
use mlx_llamba_teacher::tokenizer_of;

use crate::interrupt;
use crate::model::ComputeArgs;
use crate::output::{check_parent, show};
use crate::progress::{Progress, Unit};

/// Let a teacher write texts for a student to learn from, if you have no other data
#[derive(clap::Args)]
// In lines that fit a terminal.
#[command(override_usage = "\
mlx-llamba synthesize [OPTIONS] --teacher <PATH> --tokens <N>
           --output <FILE>")]
#[command(after_help = "\
Every line of the output is a text, for distill --data:

  {\"ended\":true,\"text\":\"...\",\"tokens\":187}

A text that has not ended at --length tokens is cut there, and the last one at --tokens. Until it is complete, the output is called \
NAME.partial; a run that was stopped in any way continues with --resume and ends with the same file. \
Equal options with an equal seed give equal texts.

Prompts are used in turn. A line of a .jsonl file is {\"text\": \"The beginning of a text\"} or \
{\"messages\": [{\"role\": \"user\", \"content\": \"...\"}]}, which the teacher's chat template turns \
into a question to answer. A line of any other file is the beginning of a text.

Examples:
  mlx-llamba synthesize --teacher ./llama --tokens 1000000 --output texts.jsonl
  mlx-llamba synthesize --teacher smollm2.gguf --tokens 200000 \\
      --begin '<|endoftext|>' --end '<|endoftext|>' \\
      --prompts beginnings.txt --output texts.jsonl
  mlx-llamba synthesize --teacher smollm2.gguf --tokens 5000000 \\
      --prompts questions.jsonl --batch 128 --device gpu --output answers.jsonl")]
pub(crate) struct Args {
    /// The Llama: a directory in Hugging Face's layout, or a GGUF file
    #[arg(short = 'm', long, visible_alias = "model", value_name = "PATH")]
    teacher: PathBuf,
    /// Total number of tokens to write
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: u64,
    /// File for the texts, as lines of JSON
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// File with prompts [default: texts start from the token that begins a text]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Token that begins every text, as data.begin in a recipe; it is not written [default: the one
    /// that the tokenizer adds]
    #[arg(long, value_name = "TOKEN")]
    begin: Option<String>,
    /// Token that ends a text; may be given more than once [default: the model's own]
    #[arg(long, value_name = "TOKEN")]
    end: Vec<String>,
    /// Maximum number of tokens in a text
    #[arg(long, value_name = "N", default_value_t = 512)]
    length: usize,
    /// Number of texts written at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Sampling temperature; 1 samples from the teacher's distribution, 0 always takes the most
    /// likely token
    #[arg(short, long, allow_negative_numbers = true, default_value_t = 1.0)]
    temperature: f32,
    /// Keep only the K most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0)]
    top_p: f32,
    /// Keep tokens with at least this fraction of the largest probability
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0)]
    min_p: f32,
    /// Seed; equal seeds give equal texts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Continue an unfinished output
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the output, or an unfinished one
    #[arg(long)]
    overwrite: bool,
    /// Tokenizer [default: the teacher's own]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        check_parent(&self.output)?;
        let files = self.tokenizer.as_ref().unwrap_or(&self.teacher);
        let teacher = self.compute.teacher(&self.teacher, || tokenizer_of(files).map(Some))?;
        let tokenizer = teacher.require_tokenizer()?;
        let prompts = match &self.prompts {
            Some(path) => prompts(path, "text", tokenizer)?,
            None => Vec::new(),
        };
        let job = Job {
            path: &self.teacher,
            llama: teacher.llama(),
            tokenizer,
            prompts: &prompts,
            options: self.options(teacher.llama().eos(), tokenizer)?,
            tokens: self.tokens,
            output: &self.output,
            resume: self.resume,
            overwrite: self.overwrite,
        };
        interrupt::on_first(|| {})?;
        let mut bar = Progress::new("writing", Unit::Tokens).callback();
        let (start, mut first) = (Instant::now(), None);
        let made = synthesize(&job, &mut |now| {
            first.get_or_insert(now.done);
            bar(now)
        });
        if interrupt::happened() && made.is_err() {
            eprintln!(
                "stopped; what is complete is in {0}.partial, which --resume continues",
                self.output.display()
            );
        }
        let made = made?;
        let new = made.tokens.saturating_sub(first.unwrap_or(made.tokens));
        show(&format!(
            "{} in {}: {}, {}, {} complete; {:.1} tok/s\n",
            count(made.texts, "text"),
            self.output.display(),
            count(made.tokens, "token"),
            count(made.bytes, "byte"),
            made.ended,
            new as f64 / start.elapsed().as_secs_f64().max(1e-9)
        ))
    }

    fn options(&self, model_ends: &[u32], tokenizer: &Tokenizer) -> Result<Options> {
        let id = |token: &String| {
            let missing = || Error::UnknownToken { token: token.clone() };
            tokenizer.token_id(token).ok_or_else(missing)
        };
        let begin = match &self.begin {
            Some(token) => vec![id(token)?],
            None => tokenizer.encode("", true)?,
        };
        let mut ends = self.end.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
        if ends.is_empty() {
            ends = [model_ends, tokenizer.eos_ids()].concat();
            ends.sort_unstable();
            ends.dedup();
        }
        let sampling = Sampling::plain()
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p);
        let options = Options::default().sampling(sampling).begin(begin).ends(ends);
        Ok(options.seed(self.seed).length(self.length).batch(self.batch))
    }
}
