//! Output of rows: as a table, as CSV or as lines of JSON.

use anyhow::Result;
use clap::ValueEnum;
use mlx_rs::memory;
use serde::Serialize;

use super::counts::short;
use super::subject::{Facts, Subject};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// One line of JSON per row
    Json,
}

/// The measured model.
#[derive(Serialize)]
pub(super) struct Header {
    pub(super) model: String,
    pub(super) weight_bytes: usize,
    /// The dtype of the activations.
    pub(super) dtype: String,
    pub(super) kernels: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Test {
    /// One text, read up to the next depth, once.
    Fill,
    Read,
    Generate,
}

/// One row of results.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) test: Test,
    /// The number of tokens per row of the batch.
    pub(super) tokens: usize,
    /// The number of tokens read before.
    pub(super) depth: usize,
    pub(super) batch: usize,
    pub(super) repetitions: usize,
    /// The speed of all rows of the batch together, as a mean over the repetitions.
    pub(super) tokens_per_second: f64,
    /// The sample standard deviation; `None` for a single repetition.
    pub(super) deviation: Option<f64>,
    pub(super) tokens_per_second_per_row: f64,
    /// The mean time in seconds from the start of the prefill to the next token.
    pub(super) time_to_first_token: Option<f64>,
    /// The peak of memory held by MLX, in bytes.
    pub(super) peak_memory: usize,
    /// The memory held by MLX afterwards, in bytes.
    pub(super) active_memory: usize,
    /// The memory of the process in bytes; `None` where the system does not report it.
    pub(super) resident_memory: Option<usize>,
    /// Bytes of weights read per second while generating; each step reads them once for all rows.
    pub(super) weight_bytes_per_second: Option<f64>,
    /// Bytes per second that this machine's CPU reads from memory when it does nothing else: the
    /// median of measurements before each repetition. `None` without measurements.
    pub(super) read_bandwidth: Option<f64>,
}

/// The times of a row's repetitions.
pub(super) struct Times {
    pub(super) seconds: Vec<f64>,
    /// Memory bandwidth in bytes per second before each repetition, if measured.
    pub(super) memory: Vec<f64>,
}

/// A row together with its header.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    row: &'a Row,
    #[serde(flatten)]
    header: &'a Header,
}

impl Header {
    pub(super) fn new(model: &impl Subject, name: String) -> Result<Self> {
        let Facts { weight_bytes, dtype, backend, .. } = model.facts();
        Ok(Self {
            model: name,
            weight_bytes,
            dtype: format!("{dtype:?}").to_lowercase(),
            kernels: backend.describe(),
        })
    }

    /// Describes the model, apart from its name.
    pub(super) fn details(&self) -> String {
        let Self { dtype, kernels, .. } = self;
        let weights = mib(self.weight_bytes);
        format!("{weights:.1} MiB of weights, {dtype} activations, kernels: {kernels}")
    }
}

impl Row {
    /// Computes a row from the times of `tokens` tokens per row, and reads the memory in use.
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

/// Returns mean and sample standard deviation.
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
    /// Returns the text before the rows.
    pub(super) fn head(self, header: &Header) -> String {
        match self {
            Self::Md => format!(
                "{}: {}\n\n| test | depth | batch | tok/s | ± | tok/s per row | first token, s \
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

/// Formats the values of an object in the order of [`COLUMNS`].
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

/// Converts bytes to MiB.
pub(super) fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
