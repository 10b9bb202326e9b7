//! A run as a picture.

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::Record;
use crate::{Error, Result};

const SIZE: (u32, u32) = (1140, 420);
/// Height of a line of the legend.
const LINE: i32 = 22;
/// Points of a line: means of neighbours where there are more.
const POINTS: usize = 600;
/// Told apart by most people, whatever colours they see.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// A line of a chart.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// One chart: its title, and its lines.
struct Chart {
    title: &'static str,
    lines: Vec<Line>,
}

/// Losses, perplexities on held-out text, and learning rate of a run, against tokens: an SVG
/// picture. Grey lines stand between stages.
///
/// # Errors
/// [`Error::Plot`].
pub fn plot(records: &[Record]) -> Result<String> {
    let mut text = String::new();
    picture(&mut text, records).map_err(|problem| Error::Plot { reason: problem.to_string() })?;
    Ok(text)
}

fn picture(text: &mut String, records: &[Record]) -> Drawn {
    let borders = borders(records);
    let end = records.iter().map(|record| record.tokens).max().unwrap_or(0).max(1) as f64;
    let charts: Vec<Chart> =
        charts(records).into_iter().filter(|chart| !chart.lines.is_empty()).collect();
    let legend: Vec<&Line> = {
        let mut seen = std::collections::BTreeSet::new();
        let lines = charts.iter().flat_map(|chart| &chart.lines);
        lines.filter(|line| seen.insert(line.name.clone())).collect()
    };
    let root =
        SVGBackend::with_string(text, (SIZE.0, SIZE.1 + LINE as u32 + 8)).into_drawing_area();
    root.fill(&WHITE)?;
    let (panels, below) = root.split_vertically(SIZE.1);
    for (area, chart) in panels.split_evenly((1, charts.len().max(1))).iter().zip(&charts) {
        panel(area, chart, end, &borders)?;
    }
    let mut x = 66;
    for line in legend {
        let colour = line.colour.stroke_width(2);
        below.draw(&PathElement::new([(x, LINE / 2), (x + 26, LINE / 2)], colour))?;
        below.draw_text(&line.name, &("sans-serif", 15).into_text_style(&below), (x + 34, 4))?;
        x += 62 + 9 * line.name.len() as i32;
    }
    root.present()?;
    Ok(())
}

/// Tokens at which one stage ends and the next begins.
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
    let line = |name: &str, colour: usize, value: &dyn Fn(&Record) -> Option<f64>| {
        let points = records.iter().filter_map(|r| Some((r.tokens as f64, value(r)?)));
        let points = thin(points.filter(|(_, y)| y.is_finite() && *y > 0.0).collect());
        Line { name: name.to_owned(), colour: COLOURS[colour % COLOURS.len()], points }
    };
    let losses = stages
        .iter()
        .enumerate()
        .map(|(i, &stage)| line(stage, i, &|record| record.loss.filter(|_| record.stage == stage)));
    let losses = losses.collect();
    let held_out = vec![
        line("student", 3, &|record| Some(record.held_out?.perplexity)),
        line("teacher", 4, &|record| record.held_out?.teacher_perplexity),
    ];
    let rate = vec![line("learning rate", 5, &|record| record.lr)];
    let mut charts = vec![
        Chart { title: "loss (log scale)", lines: losses },
        Chart { title: "perplexity on held-out text (log scale)", lines: held_out },
        Chart { title: "learning rate", lines: rate },
    ];
    for chart in &mut charts {
        chart.lines.retain(|line| !line.points.is_empty());
    }
    charts
}

/// At most `POINTS` points: means over neighbours.
fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    points
        .chunks(size)
        .map(|chunk| {
            let mean =
                |of: fn(&(f64, f64)) -> f64| chunk.iter().map(of).sum::<f64>() / chunk.len() as f64;
            (mean(|point| point.0), mean(|point| point.1))
        })
        .collect()
}

fn panel(area: &Area<'_>, chart: &Chart, end: f64, borders: &[f64]) -> Drawn {
    let values = || chart.lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    let linear = chart.title == "learning rate";
    let range = if linear { 0.0..1.12 * most } else { least / 1.1..most * 1.1 };
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(chart.title, ("sans-serif", 17))
        .margin(8)
        .x_label_area_size(44)
        .y_label_area_size(66);
    if linear {
        let mut context = builder.build_cartesian_2d(0.0..end, range.clone())?;
        draw(&mut context, chart, borders, &range)
    } else {
        let mut context = builder.build_cartesian_2d(0.0..end, range.clone().log_scale())?;
        draw(&mut context, chart, borders, &range)
    }
}

fn draw<Y>(
    context: &mut ChartContext<
        '_,
        SVGBackend<'_>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, Y>,
    >,
    chart: &Chart,
    borders: &[f64],
    range: &std::ops::Range<f64>,
) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    context
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(120, 120, 120))
        .x_desc("tokens")
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|tokens| short(*tokens))
        .y_label_formatter(&|value| number(*value))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for &border in borders {
        let ends = [(border, range.start), (border, range.end)];
        let grey = RGBColor(150, 150, 150).stroke_width(1);
        context.draw_series(std::iter::once(PathElement::new(ends, grey)))?;
    }
    for line in &chart.lines {
        let style = line.colour.stroke_width(2);
        context.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        if line.points.len() <= 40 {
            let dots = line.points.iter().map(|&point| Circle::new(point, 3, line.colour.filled()));
            context.draw_series(dots)?;
        }
    }
    Ok(())
}

/// Tokens: `250k`, `1.5M`.
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

/// About three digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size => format!("{value:.*}", (2 - size.log10().floor() as i32).max(0) as usize),
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
    fn numbers_on_the_axes() {
        assert_eq!(
            [0.0, 512.0, 1500.0, 250_000.0, 2e9].map(short),
            ["0", "512", "1.5k", "250k", "2G"]
        );
        assert_eq!(
            [0.0, 5e-5, 0.5, 5.25, 60.0, 2e6].map(number),
            ["0", "5.0e-5", "0.500", "5.25", "60.0", "2.0e6"]
        );
    }
}
