//! The rows, as a table, as CSV or as lines of JSON.

use anyhow::Result;
use clap::ValueEnum;
use mlx_rs::memory;
use serde::Serialize;

use super::counts::short;
use super::subject::Subject;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// A line of JSON a row
    Json,
}

/// What was measured.
#[derive(Serialize)]
pub(super) struct Header {
    pub(super) model: String,
    pub(super) weight_bytes: usize,
    /// Of the activations.
    pub(super) dtype: String,
    pub(super) kernels: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Test {
    /// One text read on to the next depth, once.
    Fill,
    Read,
    Generate,
}

/// One line.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) test: Test,
    /// Tokens a row of the batch.
    pub(super) tokens: usize,
    /// Tokens that the state had read before.
    pub(super) depth: usize,
    pub(super) batch: usize,
    pub(super) repetitions: usize,
    /// Of all rows of the batch together; mean over the repetitions.
    pub(super) tokens_per_second: f64,
    /// Of the sample; `None` if it was measured once.
    pub(super) deviation: Option<f64>,
    pub(super) tokens_per_second_per_row: f64,
    /// Mean seconds from the start of the reading to the next token.
    pub(super) time_to_first_token: Option<f64>,
    /// Bytes, the most that MLX held.
    pub(super) peak_memory: usize,
    /// Bytes that MLX holds afterwards.
    pub(super) active_memory: usize,
    /// Bytes of memory that the process has; `None` where the system does not say.
    pub(super) resident_memory: Option<usize>,
    /// Bytes of weights that generating read each second; each step reads them once for all rows.
    pub(super) weight_bytes_per_second: Option<f64>,
    /// Bytes that this machine's CPU reads from memory each second when it does nothing else; the
    /// median of readings, one before each repetition. `None` where there were none.
    pub(super) read_bandwidth: Option<f64>,
}

/// What the repetitions of a row took.
pub(super) struct Times {
    pub(super) seconds: Vec<f64>,
    /// Bytes a second at which memory was read before each of them, if that was measured.
    pub(super) memory: Vec<f64>,
}

/// A row with what it is a row of.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    row: &'a Row,
    #[serde(flatten)]
    header: &'a Header,
}

impl Header {
    pub(super) fn new(model: &impl Subject, name: String) -> Result<Self> {
        Ok(Self {
            model: name,
            weight_bytes: model.weight_bytes(),
            dtype: format!("{:?}", model.dtype()).to_lowercase(),
            kernels: model.backend().describe(),
        })
    }

    /// What there is beside the model's name, for people.
    pub(super) fn details(&self) -> String {
        let Self { dtype, kernels, .. } = self;
        let weights = mib(self.weight_bytes);
        format!("{weights:.1} MiB of weights, {dtype} activations, kernels: {kernels}")
    }
}

impl Row {
    /// Times of `tokens` tokens a row; reads what memory is in use now.
    pub(super) fn new(
        (test, tokens): (Test, usize),
        depth: usize,
        batch: usize,
        times: &Times,
        step_bytes: usize,
    ) -> Result<Self> {
        let Times { seconds, memory: readings } = times;
        let speeds: Vec<f64> = seconds.iter().map(|time| (tokens * batch) as f64 / time).collect();
        let (speed, deviation) = statistics(&speeds);
        Ok(Self {
            test,
            tokens,
            depth,
            batch,
            repetitions: seconds.len(),
            tokens_per_second: speed,
            deviation,
            tokens_per_second_per_row: speed / batch as f64,
            time_to_first_token: (test == Test::Read).then(|| statistics(seconds).0),
            peak_memory: memory::peak_memory()?,
            active_memory: memory::active_memory()?,
            resident_memory: memory_stats::memory_stats().map(|stats| stats.physical_mem),
            weight_bytes_per_second: (test == Test::Generate)
                .then(|| speed / batch as f64 * step_bytes as f64),
            read_bandwidth: median(readings),
        })
    }
}

/// Mean, and the deviation of a sample.
fn statistics(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

const COLUMNS: &str = "test,tokens,depth,batch,repetitions,tokens_per_second,deviation,\
    tokens_per_second_per_row,time_to_first_token,peak_memory,active_memory,resident_memory,\
    model,weight_bytes,dtype,kernels,weight_bytes_per_second,read_bandwidth\n";

impl Format {
    /// What stands before the rows.
    pub(super) fn head(self, header: &Header) -> String {
        match self {
            Self::Md => format!(
                "{}: {}\n\n| test | depth | batch | tok/s | ± | tok/s a row | first token, s \
                 | peak, MiB | in use, MiB | process, MiB | weights, GB/s | of memory's |\n\
                 |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
                header.model,
                header.details()
            ),
            Self::Csv => COLUMNS.to_owned(),
            Self::Json => String::new(),
        }
    }

    pub(super) fn row(self, header: &Header, row: &Row) -> Result<String> {
        let line = Line { row, header };
        Ok(match self {
            Self::Md => markdown(row),
            Self::Csv => csv(&serde_json::to_value(&line)?),
            Self::Json => serde_json::to_string(&line)? + "\n",
        })
    }
}

fn markdown(row: &Row) -> String {
    let maybe =
        |value: Option<f64>, digits| value.map_or(String::new(), |v| format!("{v:.digits$}"));
    let Row { depth, batch, tokens_per_second: speed, .. } = row;
    let digits = if *speed < 10.0 { 2 } else { 1 };
    format!(
        "| {} {} | {} | {batch} | {speed:.digits$} | {} | {:.digits$} | {} | {:.1} | {:.1} | {} | {} | {} |\n",
        row.test.name(),
        short(row.tokens),
        short(*depth),
        maybe(row.deviation, digits),
        row.tokens_per_second_per_row,
        maybe(row.time_to_first_token, 3),
        mib(row.peak_memory),
        mib(row.active_memory),
        maybe(row.resident_memory.map(mib), 1),
        maybe(row.weight_bytes_per_second.map(|speed| speed / 1e9), 2),
        maybe(row.weight_bytes_per_second.zip(row.read_bandwidth).map(|(w, m)| w / m), 2),
    )
}

/// The values of an object in the order of [`COLUMNS`].
fn csv(line: &serde_json::Value) -> String {
    let cell = |name: &str| match &line[name] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) if text.contains([',', '"', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let cells: Vec<String> = COLUMNS.trim_end().split(',').map(cell).collect();
    cells.join(",") + "\n"
}

impl Test {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Read => "read",
            Self::Generate => "generate",
        }
    }
}

/// Bytes in MiB.
pub(super) fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
