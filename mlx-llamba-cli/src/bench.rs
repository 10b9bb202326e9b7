//! `mlx-llamba bench`

mod axis;
mod counts;
mod lines;
mod measure;
mod plot;
mod report;
mod shape;

use std::path::PathBuf;

use anyhow::{Result, bail};
use mlx_llamba::{Model, State};

use crate::model::ModelArgs;
use crate::output::{check_parent, show};
use crate::{bench, interrupt};
use bench::counts::{batch, count, repetitions};
use bench::measure::Bench;
use bench::report::{Format, Header, Row};
use bench::shape::ShapeArgs;

/// Measure speed and memory
#[derive(clap::Args)]
#[command(after_help = "\
At every depth, every batch size reads every prompt and generates every number of tokens, in rows
that all begin from a state that has read so many tokens. Rows are means over the repetitions,
after a warm-up. `fill` rows are the reading up to the next depth, once; the rows of a batch begin
from copies of that state. k and M are 1024 and 1048576.

Peak is the most memory that MLX held during a row, in use is what it holds after it (weights and
states), and process is all that the system has given to this program.

Generating reads all weights each step; on a CPU their bytes a second are held against the fastest
that this machine reads memory, measured before the rows.

Examples:
  mlx-llamba bench
  mlx-llamba bench --depth 0,1k,4k,16k,64k -p 512 -n 64 --plot depth.svg
  mlx-llamba bench --batch 1,2,4,8 -p 0 -n 32 --format csv
  mlx-llamba bench --shape 1b --bits 4 -p 128,512,2048 -n 32
  mlx-llamba bench --shape custom --layers 12 --width 768 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Lengths of prompts to read; 0 for none
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
    /// Batch sizes: texts that are read or generated together
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1",
        value_parser = batch
    )]
    batch: Vec<usize>,
    /// Depths: tokens that the state has read before a row begins, up to 1M
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0",
        value_parser = count
    )]
    depth: Vec<usize>,
    /// Times each row is measured
    #[arg(short, long, default_value_t = 3, value_parser = repetitions)]
    repetitions: usize,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
    /// The same as --format json: a line of JSON a row
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Draw speed and memory into this SVG file
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
            bail!("nothing to measure: --prompt, --generate and --depth are all 0");
        }
        if let Some(file) = &self.plot {
            check_parent(file)?;
        }
        let loaded;
        let random;
        let check = |model: &Model| self.check_memory(model);
        let (model, name) = match self.shape.model(self.model.select()?, check)? {
            None => {
                loaded = self.model.load(false)?;
                check(loaded.model())?;
                (loaded.model(), self.model.name().to_owned())
            }
            Some((model, name)) => {
                random = model;
                (&random, name)
            }
        };
        interrupt::on_first(|| ())?;
        let format = if self.json { Format::Json } else { self.format };
        let header = Header::new(model, name)?;
        show(&format.head(&header))?;
        let mut rows = Vec::new();
        let measured = self.measure(&Bench::new(model, self.repetitions), &mut |row| {
            show(&format.row(&header, &row)?)?;
            rows.push(row);
            Ok(())
        });
        // What was measured before an interruption is drawn too.
        match &self.plot {
            Some(file) if measured.is_ok() || interrupt::happened() => {
                plot::draw(file, &header, &rows)?;
            }
            _ => {}
        }
        measured
    }

    /// Refuses what surely takes more memory than there is.
    fn check_memory(&self, model: &Model) -> Result<()> {
        let longest = self.prompt.iter().chain(&self.depth).copied().max().unwrap_or(0);
        self.batch.iter().try_for_each(|&batch| measure::check_memory(model, batch, longest))
    }

    /// Measures all rows, going on from each depth to the next.
    fn measure(&self, bench: &Bench<'_>, each: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
        let mut state = bench.model().state(1)?;
        let mut reached = 0;
        for &depth in &self.depth {
            if depth > reached {
                let row;
                (row, state) = bench.fill(state, reached, depth)?;
                each(row)?;
                reached = depth;
            }
            for &batch in &self.batch {
                let start = spread(bench.model(), &state, depth, batch)?;
                for &tokens in &self.prompt {
                    each(bench.read(&start, depth, tokens)?)?;
                }
                for &tokens in &self.generate {
                    each(bench.generate(&start, depth, tokens)?)?;
                }
            }
        }
        Ok(())
    }
}

/// A state of one row as that of all rows of a batch.
fn spread(model: &Model, state: &State, depth: usize, batch: usize) -> Result<State> {
    let state = match (depth, batch) {
        (0, _) => model.state(batch)?,
        (_, 1) => state.clone(),
        _ => State::stack(&vec![state.clone(); batch])?,
    };
    state.eval()?;
    Ok(state)
}
