//! Which rows a plot joins to a line, and where the lines' names stand.

use plotters::style::RGBColor;

use super::counts::short;
use super::report::{Row, Test};

/// Height of a line of the legend.
pub(super) const LINE: i32 = 22;
/// Told apart by most people, whatever colours they see.
const COLOURS: [RGBColor; 9] = [
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

/// What differs along the axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    Depth,
    Tokens,
    Batch,
}

/// The rows that one line joins.
pub(super) struct Line<'a> {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    pub(super) rows: Vec<&'a Row>,
}

impl Along {
    /// The first of depth, tokens and batch that differs.
    pub(super) fn of(rows: &[&Row]) -> Self {
        let differs = |along: Self| {
            // Reading and generating are different lines; their tokens need not be alike.
            rows.iter()
                .any(|a| rows.iter().any(|b| a.test == b.test && along.value(a) != along.value(b)))
        };
        [Self::Depth, Self::Tokens, Self::Batch]
            .into_iter()
            .find(|&along| differs(along))
            .unwrap_or(Self::Depth)
    }

    pub(super) fn value(self, row: &Row) -> f64 {
        (match self {
            // The speed of filling is known where it ends.
            Self::Depth if row.test == Test::Fill => row.depth + row.tokens,
            Self::Depth => row.depth,
            Self::Tokens => row.tokens,
            Self::Batch => row.batch,
        }) as f64
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Depth => "tokens read before",
            Self::Tokens => "tokens",
            Self::Batch => "rows of the batch",
        }
    }
}

/// Rows that differ only along the axis, together.
pub(super) fn lines<'a>(rows: &[&'a Row], along: Along) -> Vec<Line<'a>> {
    let batches = rows.iter().any(|row| row.batch > 1) && along != Along::Batch;
    let name = |row: &Row| {
        let mut name = row.test.name().to_owned();
        if along != Along::Tokens && row.test != Test::Fill {
            name = format!("{name} {}", short(row.tokens));
        }
        if batches { format!("{name}, batch {}", row.batch) } else { name }
    };
    let mut lines: Vec<Line<'a>> = Vec::new();
    for &row in rows {
        let name = name(row);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.rows.push(row),
            None => {
                let colour = COLOURS[lines.len() % COLOURS.len()];
                lines.push(Line { name, colour, rows: vec![row] });
            }
        }
    }
    for line in &mut lines {
        line.rows.sort_by(|a, b| along.value(a).total_cmp(&along.value(b)));
    }
    lines
}

/// Where the lines' names stand: from left to right, as many in a line as there is room for.
pub(super) fn legend<'a, 'b>(lines: &'b [Line<'a>], room: u32) -> Vec<(&'b Line<'a>, (i32, i32))> {
    let (mut x, mut y) = (66, 0);
    let entry = |line: &'b Line<'a>| {
        let width = 62 + 9 * line.name.len() as i32;
        if x + width > room as i32 {
            (x, y) = (66, y + LINE);
        }
        let place = (x, y);
        x += width;
        (line, place)
    };
    lines.iter().map(entry).collect()
}
