//! `mlx-llamba bench`

mod axis;
mod counts;
mod measure;
mod plot;
mod report;
mod shape;
mod subject;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mlx_llamba::kernel_check::Machine;
use mlx_llamba::kernels::check::memory_speed;
use mlx_llamba::units::count as count_of;

use crate::doctor::kernels::heading;
use crate::model::{ModelArgs, with_model};
use crate::output::{check_parent, show, usage};
use crate::progress::{Progress, Unit};
use crate::{bench, interrupt};
use bench::counts::{batch, count, repetitions};
use bench::measure::Bench;
use bench::report::{Format, Header, Row};
use bench::shape::{Random, ShapeArgs};
use bench::subject::Subject;

/// Measure speed and memory
#[derive(clap::Args)]
#[command(after_help = "\
At every depth and batch size, each prompt length is read and each number of tokens is generated, \
starting from a state after that many tokens. Rows are means over the repetitions, after a warm-up. \
`fill` rows measure reading up to the next depth, once; the texts of a batch start from copies of \
that state. k and M are 1024 and 1048576.

\"Peak\" is the most memory that MLX held during a row. \"In use\" is what it holds afterwards: weights \
and states, for a Llamba also those from which the next row starts. \"Process\" is all memory of the \
process.

A Llama is measured in the same way: its depth is the number of tokens in its cache. No row may \
exceed its context.

Generating reads all weights at each step. On a CPU, the bytes of weights per second are compared \
with the speed at which this machine reads memory, measured before each repetition.

Examples:
  mlx-llamba bench
  mlx-llamba bench --depth 0,1k,4k,16k,64k -p 512 -n 64 --plot depth.svg
  mlx-llamba bench --batch 1,2,4,8 -p 0 -n 32 --format csv
  mlx-llamba bench --model llama.gguf --depth 0,512,1k -p 64 -n 16
  mlx-llamba bench --shape 1b --bits 4 -p 128,512,2048 -n 32
  mlx-llamba bench --shape 8b --bits 4 --report
  mlx-llamba bench --shape custom --layers 12 --width 768 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Prompt lengths to read, in tokens; 0 for none
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "128,512,2048",
        value_parser = count
    )]
    prompt: Vec<usize>,
    /// Numbers of tokens to generate; 0 for none
    #[arg(
        short = 'n',
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "64",
        value_parser = count
    )]
    generate: Vec<usize>,
    /// Batch sizes: numbers of texts computed together
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1",
        value_parser = batch
    )]
    batch: Vec<usize>,
    /// Depths: tokens that the model has read before, up to 1M
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0",
        value_parser = count
    )]
    depth: Vec<usize>,
    /// Repetitions of each row
    #[arg(short, long, default_value_t = 3, value_parser = repetitions)]
    repetitions: usize,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
    /// The same as --format json: one line of JSON per row
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Begin with a description of this machine, for a report of speed; `doctor --kernels` has the
    /// other part of a report
    #[arg(long, conflicts_with_all = ["format", "json"])]
    report: bool,
    /// Plot speed and memory to this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(mut self) -> Result<()> {
        for list in [&mut self.prompt, &mut self.generate] {
            list.retain(|&tokens| tokens > 0);
        }
        self.depth.sort_unstable();
        self.depth.dedup();
        if self.prompt.is_empty() && self.generate.is_empty() && self.depth == [0] {
            usage!("nothing to measure: --prompt, --generate and --depth are all 0");
        }
        if let Some(file) = &self.plot {
            let ending = file.extension().map(|ending| ending.to_ascii_lowercase());
            if ending.is_some_and(|ending| ending != "svg") {
                usage!("--plot {}: plots are SVG; end the name with .svg", file.display());
            }
            check_parent(file)?;
        }
        match self.shape.model(self.model.select()?)? {
            Some((Random::Llamba(model), name)) => self.random(&model, name),
            Some((Random::Llama(model), name)) => self.random(&model, name),
            None => {
                let name = self.model.name().to_owned();
                let loaded = self.model.load_any(false)?;
                with_model!(&loaded, |model| self.report(model, name))
            }
        }
    }

    /// Generates the weights of a random model, and measures it.
    fn random(&self, model: &impl Subject, name: String) -> Result<()> {
        self.check(model).with_context(|| format!("{name} does not fit"))?;
        {
            let progress = Progress::new("generating weights", Unit::Bytes);
            model.generate_weights(&mut progress.callback())?;
        }
        self.report(model, name)
    }

    /// Measures, prints and plots all rows.
    fn report(&self, model: &impl Subject, name: String) -> Result<()> {
        self.check(model).with_context(|| format!("cannot measure {name}"))?;
        interrupt::on_first(|| ())?;
        let format = if self.json { Format::Json } else { self.format };
        let header = Header::new(model, name)?;
        if self.report {
            let machine = Machine::new(model.facts().backend);
            show(&format!("{}\n", heading(&machine, memory_speed().unwrap_or(0.0))))?;
        }
        show(&format.head(&header))?;
        let mut rows = Vec::new();
        let measured = self.measure(&Bench::new(model, self.repetitions), &mut |row| {
            show(&format.row(&header, &row)?)?;
            rows.push(row);
            Ok(())
        });
        // Rows measured before an interruption are plotted too.
        match &self.plot {
            Some(file) if measured.is_ok() || interrupt::happened() => {
                plot::draw(file, &header, &rows)?;
            }
            _ => {}
        }
        measured
    }

    /// Refuses lengths beyond the model's context, or beyond the memory of this machine.
    fn check(&self, model: &impl Subject) -> Result<()> {
        let most = |tokens: &[usize]| tokens.iter().copied().max().unwrap_or(0);
        let (depth, prompt) = (most(&self.depth), most(&self.prompt));
        let more = prompt.max(most(&self.generate));
        let end = depth + more;
        if let Some(context) = model.context_length().filter(|&context| context < end) {
            bail!(
                "{} at depth {depth} would end at {end}, and its context ends at {context}; ask for a \
                 smaller --depth, --prompt or --generate",
                count_of(more as u64, "token")
            );
        }
        let longest = prompt.max(depth);
        self.batch.iter().try_for_each(|&batch| measure::check_memory(model, batch, longest, end))
    }

    /// Measures all rows, from each depth to the next.
    fn measure<M: Subject>(
        &self,
        bench: &Bench<'_, M>,
        each: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<()> {
        let mut one = bench.start()?;
        let mut row;
        for &depth in &self.depth {
            if depth > one.depth {
                (row, one) = bench.fill(one, depth)?;
                each(row)?;
            }
            for &batch in &self.batch {
                // A single row is measured itself: a copy would take memory that no text takes.
                let (mut rows, kept) = match batch {
                    1 => (one, None),
                    _ => (bench.spread(&one, batch)?, Some(one)),
                };
                for &tokens in &self.prompt {
                    (row, rows) = bench.read(rows, tokens)?;
                    each(row)?;
                }
                for &tokens in &self.generate {
                    (row, rows) = bench.generate(rows, tokens)?;
                    each(row)?;
                }
                one = kept.unwrap_or(rows);
            }
        }
        Ok(())
    }
}
