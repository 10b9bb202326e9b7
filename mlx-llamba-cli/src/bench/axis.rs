//! The horizontal axis of a plot.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::counts::short;

/// The minimum distance between two labels, as a fraction of the axis.
const SPACING: f64 = 0.085;

/// An axis with labels at the measured values. It is logarithmic if they differ much; 0 is then
/// drawn as a quarter of the smallest other value.
#[derive(Clone)]
pub(super) struct Axis {
    values: Vec<f64>,
    logarithmic: bool,
}

impl Axis {
    /// Returns the axis of these values, in any order.
    pub(super) fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let least = values.iter().copied().find(|&value| value > 0.0);
        let most = values.last().copied();
        let logarithmic = least.zip(most).is_some_and(|(least, most)| most >= 8.0 * least);
        Self { values, logarithmic }
    }

    /// Returns the position of a value, in arbitrary units.
    fn place(&self, value: f64) -> f64 {
        let least = self.values.iter().copied().find(|&value| value > 0.0);
        match least {
            Some(least) if self.logarithmic => value.max(least / 4.0).log2(),
            _ => value,
        }
    }

    /// Returns the position of a value as a fraction of the axis, which has a margin at either end.
    fn part(&self, value: f64) -> f64 {
        let end = |value: Option<&f64>| self.place(value.copied().unwrap_or(0.0));
        let (first, last) = (end(self.values.first()), end(self.values.last()));
        if first == last { 0.5 } else { 0.04 + 0.92 * (self.place(value) - first) / (last - first) }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        start + (f64::from(end - start) * self.part(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let mut labels: Vec<f64> = Vec::new();
        for &value in &self.values {
            if labels.last().is_none_or(|&last| self.part(value) - self.part(last) >= SPACING) {
                labels.push(value);
            }
        }
        labels
    }

    fn range(&self) -> Range<f64> {
        let end = |value: Option<&f64>| value.copied().unwrap_or(0.0);
        end(self.values.first())..end(self.values.last())
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        short(*value as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64]) -> Axis {
        Axis::new(values.iter().copied())
    }

    #[test]
    fn zero_and_powers_stand_evenly() {
        let axis = axis(&[16384.0, 0.0, 4096.0, 1024.0, 1024.0]);
        let places: Vec<i32> =
            [0.0, 1024.0, 4096.0, 16384.0].iter().map(|v| axis.map(v, (100, 400))).collect();
        assert_eq!(places, [112, 204, 296, 388]);
        assert_eq!(axis.key_points(100), [0.0, 1024.0, 4096.0, 16384.0]);
        assert_eq!((axis.range(), axis.format_ext(&4096.0)), (0.0..16384.0, "4k".to_owned()));
    }

    #[test]
    fn near_values_are_linear_and_labels_keep_their_distance() {
        let near = axis(&[1.0, 2.0, 3.0]);
        assert_eq!(near.map(&2.0, (0, 100)), 50);
        let dense = axis(&(100..200).map(f64::from).collect::<Vec<_>>());
        assert!(dense.key_points(100).len() <= 13);
        assert_eq!(axis(&[512.0]).map(&512.0, (0, 100)), 50);
    }
}
