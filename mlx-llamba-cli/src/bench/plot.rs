//! Speed and memory as a picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::Axis;
use super::lines::{Along, LINE, Line, legend, lines};
use super::report::{Header, Row, Test, mib};

const SIZE: (u32, u32) = (1140, 420);
const TITLE: u32 = 62;
/// Characters of a title that there is room for.
const TITLE_LENGTH: usize = 120;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What one chart shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chart {
    Reading,
    Generating,
    Memory,
}

/// Draws the rows into an SVG file: speeds of reading and generating, and memory, against depth
/// if there are several, else against tokens or batch.
pub(super) fn draw(file: &Path, header: &Header, rows: &[Row]) -> Result<()> {
    let mut text = String::new();
    picture(&mut text, header, rows).map_err(|problem| anyhow!("cannot draw: {problem}"))?;
    std::fs::write(file, text).map_err(|error| anyhow!("cannot write {}: {error}", file.display()))
}

fn picture(
    text: &mut String,
    header: &Header,
    rows: &[Row],
) -> Result<(), Box<dyn std::error::Error>> {
    // Filling is reading: it is drawn where nothing else is.
    let fill = rows.iter().all(|row| row.test == Test::Fill);
    let rows: Vec<&Row> = rows.iter().filter(|row| fill || row.test != Test::Fill).collect();
    let along = Along::of(&rows);
    let lines = lines(&rows, along);
    let legend = legend(&lines, SIZE.0);
    let height = legend.last().map_or(0, |(_, (_, y))| y + LINE);
    let root = SVGBackend::with_string(text, (SIZE.0, SIZE.1 + height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let (title, rest) = root.split_vertically(TITLE);
    let style = ("sans-serif", 17).into_text_style(&title);
    for (line, y) in [(&header.model, 14), (&header.details(), 37)] {
        let line: String = line.chars().take(TITLE_LENGTH).collect();
        title.draw_text(&line, &style, (14, y))?;
    }
    let (panels, below) = rest.split_vertically(SIZE.1 - TITLE);
    let axis = Axis::new(rows.iter().map(|row| along.value(row)));
    let charts: Vec<Chart> = Chart::ALL.into_iter().filter(|chart| chart.has(&rows)).collect();
    for (area, chart) in panels.split_evenly((1, charts.len())).iter().zip(charts) {
        panel(area, (chart, along), &axis, &lines)?;
    }
    for (line, (x, y)) in legend {
        let middle = y + LINE / 2;
        below.draw(&PathElement::new(
            [(x, middle), (x + 26, middle)],
            line.colour.stroke_width(2),
        ))?;
        below.draw(&Circle::new((x + 13, middle), 4, line.colour.filled()))?;
        below.draw_text(
            &line.name,
            &("sans-serif", 15).into_text_style(&below),
            (x + 34, y + 4),
        )?;
    }
    root.present()?;
    Ok(())
}

/// One chart with all lines that have values in it.
fn panel(
    area: &Area<'_>,
    (wanted, along): (Chart, Along),
    axis: &Axis,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let point = |row: &&Row| wanted.value(row).map(|(y, sd)| (along.value(row), y, sd));
    let points = |line: &Line<'_>| line.rows.iter().filter_map(point).collect::<Vec<_>>();
    let most = lines.iter().flat_map(points).map(|(_, y, sd)| y + sd).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(wanted.title(), ("sans-serif", 17))
        .margin(8)
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(axis.clone(), 0.0..(1.12 * most).max(1e-9))?;
    let digits = if most >= 10.0 { 0 } else { 2 };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(120, 120, 120))
        .x_desc(along.name())
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.digits$}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for line in lines {
        let points = points(line);
        let style = line.colour.stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().map(|&(x, y, _)| (x, y)), style))?;
        let deviations = points.iter().filter(|(_, _, sd)| *sd > 0.0);
        chart.draw_series(deviations.map(|&(x, y, sd)| {
            PathElement::new([(x, (y - sd).max(0.0)), (x, y + sd)], line.colour.stroke_width(1))
        }))?;
        chart.draw_series(
            points.iter().map(|&(x, y, _)| Circle::new((x, y), 4, line.colour.filled())),
        )?;
    }
    Ok(())
}

impl Chart {
    const ALL: [Self; 3] = [Self::Reading, Self::Generating, Self::Memory];

    fn has(self, rows: &[&Row]) -> bool {
        rows.iter().any(|row| self.value(row).is_some())
    }

    fn title(self) -> &'static str {
        match self {
            Self::Reading => "reading, tokens a second",
            Self::Generating => "generating, tokens a second",
            Self::Memory => "peak memory, MiB",
        }
    }

    /// Mean and deviation.
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
