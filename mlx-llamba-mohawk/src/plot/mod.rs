//! Line charts as SVG pictures.

mod log_axis;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use crate::{Error, Result};
use log_axis::{LogAxis, number};

/// The width of a picture, and the height of its charts, in pixels.
const SIZE: (u32, u32) = (1140, 400);
/// The height of a line of text above the charts or in the legend.
const LINE: i32 = 24;
/// The number of points up to which a line has dots.
const DOTS: usize = 40;
/// Colors that most people can tell apart, also with color blindness.
const COLORS: [RGBColor; 9] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(140, 86, 75),
    RGBColor(94, 53, 177),
];

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Charts side by side over the same horizontal axis, with text above and a legend below.
#[derive(Debug)]
pub struct Figure<X> {
    /// Lines of text above the charts.
    pub heading: Vec<String>,
    /// The charts, from left to right.
    pub charts: Vec<Chart>,
    /// The horizontal axis.
    pub x: X,
    /// The quantity on the horizontal axis.
    pub x_name: &'static str,
    /// Formats a value on the horizontal axis.
    pub x_label: fn(f64) -> String,
    /// Values of the horizontal axis that are marked with a gray line.
    pub marks: Vec<f64>,
}

/// One chart.
#[derive(Debug)]
pub struct Chart {
    /// The text above it.
    pub title: &'static str,
    /// True if the vertical axis is logarithmic; else it starts at 0.
    pub logarithmic: bool,
    /// Its lines, which may be without points.
    pub lines: Vec<Line>,
}

/// A line of a chart. Lines of the same name share an entry of the legend.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// The number of its color.
    pub color: usize,
    /// Its points, by x.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The value on the horizontal axis.
    pub x: f64,
    /// The value on the vertical axis.
    pub y: f64,
    /// The standard deviation of `y`; 0 draws no bar.
    pub deviation: f64,
}

impl<X> Figure<X>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64> + Clone,
{
    /// Draws the figure. Charts without points are left out.
    ///
    /// # Errors
    /// [`Error::Plot`].
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|problem| Error::Plot { reason: problem.to_string() })?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Drawn {
        let has_points = |chart: &&Chart| chart.lines.iter().any(|line| !line.points.is_empty());
        let charts: Vec<&Chart> = self.charts.iter().filter(has_points).collect();
        let legend = legend(&charts);
        let heading = LINE * self.heading.len() as i32 + 8;
        let last = legend.last().map_or(0, |(_, (_, y))| y + LINE + 8);
        let size = (SIZE.0, SIZE.1 + (heading + last) as u32);
        let root = SVGBackend::with_string(text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let style = ("sans-serif", 17).into_text_style(&root);
        for (y, line) in (12..).step_by(LINE as usize).zip(&self.heading) {
            root.draw_text(line, &style, (14, y))?;
        }
        let (_, rest) = root.split_vertically(heading);
        let (panels, below) = rest.split_vertically(SIZE.1);
        for (area, chart) in panels.split_evenly((1, charts.len().max(1))).iter().zip(&charts) {
            self.panel(area, chart)?;
        }
        for (line, (x, y)) in legend {
            let middle = y + LINE / 2;
            let stroke = [(x, middle), (x + 26, middle)];
            below.draw(&PathElement::new(stroke, line.color().stroke_width(2)))?;
            below.draw(&Circle::new((x + 13, middle), 3, line.color().filled()))?;
            let style = ("sans-serif", 15).into_text_style(&below);
            below.draw_text(&line.name, &style, (x + 34, y + 4))?;
        }
        root.present()?;
        Ok(())
    }

    fn panel(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, chart: &Chart) -> Drawn {
        let points = chart.lines.iter().flat_map(|line| &line.points);
        let mut builder = ChartBuilder::on(area);
        builder.caption(chart.title, ("sans-serif", 17)).margin(8);
        builder.x_label_area_size(44).y_label_area_size(66);
        let x = self.x.clone();
        if chart.logarithmic {
            let y = LogAxis::new(points.map(|point| point.y));
            self.lines(&mut builder.build_cartesian_2d(x, y)?, chart)
        } else {
            let most = points.map(|point| point.y + point.deviation).fold(0.0, f64::max);
            let y = 0.0..(1.12 * most).max(f64::MIN_POSITIVE);
            self.lines(&mut builder.build_cartesian_2d(x, y)?, chart)
        }
    }

    fn lines<Y>(
        &self,
        context: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
        chart: &Chart,
    ) -> Drawn
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        context
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_style(RGBColor(120, 120, 120))
            .x_desc(self.x_name)
            .x_labels(5)
            .y_labels(6)
            .x_label_formatter(&|x| (self.x_label)(*x))
            .y_label_formatter(&|y| number(*y))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        let range = context.y_range();
        for &mark in &self.marks {
            let ends = [(mark, range.start), (mark, range.end)];
            let gray = RGBColor(150, 150, 150).stroke_width(1);
            context.draw_series(std::iter::once(PathElement::new(ends, gray)))?;
        }
        for line in &chart.lines {
            let path = line.points.iter().map(|point| (point.x, point.y));
            context.draw_series(LineSeries::new(path.clone(), line.color().stroke_width(2)))?;
            let bars = line.points.iter().filter(|point| point.deviation > 0.0);
            context.draw_series(bars.map(|&Point { x, y, deviation }| {
                let ends = [(x, (y - deviation).max(range.start)), (x, y + deviation)];
                PathElement::new(ends, line.color().stroke_width(1))
            }))?;
            if line.points.len() <= DOTS {
                context.draw_series(path.map(|at| Circle::new(at, 3, line.color().filled())))?;
            }
        }
        Ok(())
    }
}

impl Line {
    fn color(&self) -> RGBColor {
        COLORS[self.color % COLORS.len()]
    }
}

/// Places the names of all lines from left to right, as many in a row as fit.
fn legend<'c>(charts: &[&'c Chart]) -> Vec<(&'c Line, (i32, i32))> {
    let (mut x, mut y) = (66, 0);
    let mut placed: Vec<(&Line, (i32, i32))> = Vec::new();
    for line in charts.iter().flat_map(|chart| &chart.lines) {
        if line.points.is_empty() || placed.iter().any(|(other, _)| other.name == line.name) {
            continue;
        }
        let width = 62 + 9 * line.name.len() as i32;
        if x + width > SIZE.0 as i32 {
            (x, y) = (66, y + LINE);
        }
        placed.push((line, (x, y)));
        x += width;
    }
    placed
}
