//! Plots of speed and memory.

use std::path::Path;

use anyhow::{Context as _, Result};
use mlx_llamba_mohawk::plot::{Chart, Figure, Line, Point};

use super::axis::Axis;
use super::counts::short;
use super::report::{Header, Row, Test, mib};

/// The maximum length of a heading, in characters.
const HEADING: usize = 120;

/// A quantity that one chart shows.
#[derive(Clone, Copy)]
enum Quantity {
    Reading,
    Generating,
    Memory,
}

/// The quantity on the horizontal axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    Depth,
    Tokens,
    Batch,
}

/// Draws the rows to an SVG file: speed of reading and generating, and memory, against depth if
/// there are several, else against tokens or batch size.
pub(super) fn draw(file: &Path, header: &Header, rows: &[Row]) -> Result<()> {
    // Filling is reading: it is drawn only if nothing else was measured.
    let fill = rows.iter().all(|row| row.test == Test::Fill);
    let rows: Vec<&Row> = rows.iter().filter(|row| fill || row.test != Test::Fill).collect();
    let along = Along::of(&rows);
    let lines = lines(&rows, along);
    let cut = |line: &str| line.chars().take(HEADING).collect();
    let figure = Figure {
        heading: vec![cut(&header.model), cut(&header.details())],
        charts: Quantity::ALL.map(|quantity| quantity.chart(&lines, along)).into(),
        x: Axis::new(rows.iter().map(|row| along.value(row))),
        x_name: along.name(),
        x_label: |value| short(value as usize),
        marks: Vec::new(),
    };
    std::fs::write(file, figure.svg()?).with_context(|| format!("cannot write {}", file.display()))
}

impl Quantity {
    const ALL: [Self; 3] = [Self::Reading, Self::Generating, Self::Memory];

    fn chart(self, lines: &[(String, Vec<&Row>)], along: Along) -> Chart {
        let point = |row: &&Row| {
            let (y, deviation) = self.value(row)?;
            Some(Point { x: along.value(row), y, deviation })
        };
        let lines = lines.iter().enumerate().map(|(color, (name, rows))| Line {
            name: name.clone(),
            color,
            points: rows.iter().filter_map(point).collect(),
        });
        Chart { title: self.title(), logarithmic: false, lines: lines.collect() }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Reading => "reading, tokens per second",
            Self::Generating => "generating, tokens per second",
            Self::Memory => "peak memory, MiB",
        }
    }

    /// Returns mean and standard deviation, or `None` if the row does not measure this.
    fn value(self, row: &Row) -> Option<(f64, f64)> {
        let speed = (row.tokens_per_second, row.deviation.unwrap_or(0.0));
        match (self, row.test) {
            (Self::Memory, _) => Some((mib(row.peak_memory), 0.0)),
            (Self::Reading, Test::Read | Test::Fill) => Some(speed),
            (Self::Generating, Test::Generate) => Some(speed),
            _ => None,
        }
    }
}

impl Along {
    /// Returns the first of depth, tokens and batch size that differs between rows.
    fn of(rows: &[&Row]) -> Self {
        let differs = |along: Self| {
            // Reading and generating are separate lines, so their tokens need not be equal.
            rows.iter()
                .any(|a| rows.iter().any(|b| a.test == b.test && along.value(a) != along.value(b)))
        };
        [Self::Depth, Self::Tokens, Self::Batch]
            .into_iter()
            .find(|&along| differs(along))
            .unwrap_or(Self::Depth)
    }

    fn value(self, row: &Row) -> f64 {
        (match self {
            // The speed of filling is known where it ends.
            Self::Depth if row.test == Test::Fill => row.depth + row.tokens,
            Self::Depth => row.depth,
            Self::Tokens => row.tokens,
            Self::Batch => row.batch,
        }) as f64
    }

    fn name(self) -> &'static str {
        match self {
            Self::Depth => "tokens read before",
            Self::Tokens => "tokens",
            Self::Batch => "batch size",
        }
    }
}

/// Joins rows that differ only along the axis to lines with names.
fn lines<'r>(rows: &[&'r Row], along: Along) -> Vec<(String, Vec<&'r Row>)> {
    let batches = rows.iter().any(|row| row.batch > 1) && along != Along::Batch;
    let name = |row: &Row| {
        let mut name = row.test.name().to_owned();
        if along != Along::Tokens && row.test != Test::Fill {
            name = format!("{name} {}", short(row.tokens));
        }
        if batches { format!("{name}, batch {}", row.batch) } else { name }
    };
    let mut lines: Vec<(String, Vec<&Row>)> = Vec::new();
    for &row in rows {
        let name = name(row);
        match lines.iter_mut().find(|(other, _)| *other == name) {
            Some((_, rows)) => rows.push(row),
            None => lines.push((name, vec![row])),
        }
    }
    for (_, rows) in &mut lines {
        rows.sort_by(|a, b| along.value(a).total_cmp(&along.value(b)));
    }
    lines
}
