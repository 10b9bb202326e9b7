//! The training curves of a run as a picture.

use plotters::coord::types::RangedCoordf64;

use super::Record;
use crate::Result;
use crate::plot::{Chart, Figure, Line, Point};

/// The maximum number of points of a line; more are averaged over neighbors.
const POINTS: usize = 600;

/// Draws losses, perplexities on held-out text, and the learning rate of a run against tokens, as an
/// SVG picture. Gray lines separate stages.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot).
pub fn plot(records: &[Record]) -> Result<String> {
    let end = records.iter().map(|record| record.tokens).max().unwrap_or(0).max(1) as f64;
    let figure = Figure {
        heading: Vec::new(),
        charts: charts(records),
        x: RangedCoordf64::from(0.0..end),
        x_name: "tokens",
        x_label: short,
        marks: borders(records),
    };
    figure.svg()
}

/// Returns the tokens at which one stage ends and the next begins.
fn borders(records: &[Record]) -> Vec<f64> {
    let pairs = records.windows(2).filter(|pair| pair[0].stage != pair[1].stage);
    pairs.map(|pair| pair[0].tokens as f64).collect()
}

fn charts(records: &[Record]) -> Vec<Chart> {
    let mut stages: Vec<&str> = Vec::new();
    for record in records {
        if !stages.contains(&record.stage.as_str()) {
            stages.push(&record.stage);
        }
    }
    let line = |name: &str, color: usize, value: &dyn Fn(&Record) -> Option<f64>| {
        let points = records.iter().filter_map(|r| Some((r.tokens as f64, value(r)?)));
        let points = thin(&points.filter(|(_, y)| y.is_finite() && *y > 0.0).collect::<Vec<_>>());
        Line { name: name.to_owned(), color, points }
    };
    let losses = stages
        .iter()
        .enumerate()
        .map(|(i, &stage)| line(stage, i, &|record| record.loss.filter(|_| record.stage == stage)));
    let teacher =
        records.iter().any(|r| r.held_out.is_some_and(|m| m.teacher_perplexity.is_some()));
    let student = if teacher { "student" } else { "model" };
    let held_out = vec![
        line(student, 3, &|record| Some(record.held_out?.perplexity)),
        line("teacher", 4, &|record| record.held_out?.teacher_perplexity),
    ];
    let rate = vec![line("learning rate", 6, &|record| record.lr)];
    vec![
        Chart { title: "loss (log scale)", logarithmic: true, lines: losses.collect() },
        Chart {
            title: "perplexity on held-out text (log scale)",
            logarithmic: true,
            lines: held_out,
        },
        Chart { title: "learning rate", logarithmic: false, lines: rate },
    ]
}

/// Averages over neighbors down to at most [`POINTS`] points.
fn thin(points: &[(f64, f64)]) -> Vec<Point> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        chunk.iter().map(of).sum::<f64>() / chunk.len() as f64
    };
    let point =
        |chunk| Point { x: mean(chunk, |at| at.0), y: mean(chunk, |at| at.1), deviation: 0.0 };
    points.chunks(size).map(point).collect()
}

/// Formats a number of tokens: `250k`, `1.5M`.
fn short(tokens: f64) -> String {
    let unit = |size: f64, name: &str| {
        let digits = usize::from((tokens / size).fract().abs() > 0.05);
        format!("{:.digits$}{name}", tokens / size)
    };
    match tokens {
        _ if tokens >= 1e9 => unit(1e9, "G"),
        _ if tokens >= 1e6 => unit(1e6, "M"),
        _ if tokens >= 1e3 => unit(1e3, "k"),
        _ => unit(1.0, ""),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluate::Metrics;

    #[test]
    fn stages_and_held_out_text_are_drawn() {
        let record = |step: u64| Record {
            step,
            stage: if step <= 700 { "orientation" } else { "distillation" }.into(),
            tokens: 512 * step,
            loss: Some(60.0 / step as f64),
            lr: Some(1e-4),
            held_out: step.is_multiple_of(100).then(|| Metrics {
                perplexity: 1e4 / step as f64,
                teacher_perplexity: Some(5.0),
                ..Metrics::default()
            }),
            ..Record::default()
        };
        let records: Vec<Record> = (1..=1500).map(record).collect();
        let svg = plot(&records).unwrap();
        let words = ["orientation", "distillation", "student", "teacher", "loss (log", "tokens"];
        for word in words {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(svg.len() < 200_000, "{}", svg.len());
        assert_eq!(borders(&records), [512.0 * 700.0]);
        // Before anything is known, and values that have no logarithm.
        assert!(plot(&[]).unwrap().contains("<svg"));
        let odd = Record { loss: Some(0.0), lr: Some(f64::NAN), ..record(1) };
        assert!(plot(&[odd]).unwrap().contains("<svg"));
    }

    #[test]
    fn tokens_on_the_axis() {
        assert_eq!(
            [0.0, 512.0, 1500.0, 250_000.0, 2e9].map(short),
            ["0", "512", "1.5k", "250k", "2G"]
        );
    }
}
