//! A logarithmic axis that has labels for any range.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// An axis between two positive values.
#[derive(Clone)]
pub(super) struct LogAxis {
    least: f64,
    most: f64,
}

impl LogAxis {
    /// Returns the axis of these values, with a margin at either end.
    pub(super) fn new(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (1.0, 1.0);
        }
        let margin = (most / least).powf(0.05).max(1.0005);
        Self { least: least / margin, most: most * margin }
    }

    /// Returns powers of 10 if there are enough of them, else also 2 and 5 times those, else round
    /// numbers at equal distances.
    fn labels(&self) -> Vec<f64> {
        let (first, last) = (self.least.log10().floor() as i32, self.most.log10().ceil() as i32);
        let within = |value: &f64| (self.least..=self.most).contains(value);
        let multiples = |of: &[f64]| -> Vec<f64> {
            let all = (first..=last).flat_map(|e| of.iter().map(move |m| m * 10f64.powi(e)));
            all.filter(within).collect()
        };
        for series in [multiples(&[1.0]), multiples(&[1.0, 2.0, 5.0])] {
            if series.len() >= 3 {
                return series.iter().copied().step_by(series.len().div_ceil(8)).collect();
            }
        }
        let raw = (self.most - self.least) / 4.0;
        let unit = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|&step| step >= raw);
        let step = step.unwrap_or(unit);
        let from = (self.least / step).ceil() as i64;
        (from..from + 8).map(|i| i as f64 * step).filter(within).collect()
    }
}

impl Ranged for LogAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = (value / self.least).ln() / (self.most / self.least).ln();
        start + (f64::from(end - start) * part).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.labels()
    }

    fn range(&self) -> Range<f64> {
        self.least..self.most
    }
}

impl ValueFormatter<f64> for LogAxis {
    fn format_ext(&self, value: &f64) -> String {
        number(*value)
    }
}

/// Formats a number with at most four digits and no trailing zeros.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(digits));
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64]) -> Vec<String> {
        let axis = LogAxis::new(values.iter().copied());
        axis.labels().into_iter().map(number).collect()
    }

    #[test]
    fn any_range_has_labels() {
        assert_eq!(labels(&[4.4, 2e6]), ["10", "100", "1000", "10000", "1e5", "1e6"]);
        assert_eq!(labels(&[5.3, 8.4, 60.0]), ["5", "10", "20", "50"]);
        assert_eq!(labels(&[5.3, 8.4]), ["6", "7", "8"]);
        assert_eq!(labels(&[229.5, 231.2]), ["229.5", "230", "230.5", "231"]);
        assert_eq!(labels(&[1e-9, 1.0]).len(), 5);
        assert!(!labels(&[3.0]).is_empty() && !labels(&[]).is_empty());
    }

    #[test]
    fn equal_factors_are_equal_distances() {
        let axis = LogAxis { least: 1.0, most: 1000.0 };
        assert_eq!([1.0, 10.0, 1000.0].map(|v| axis.map(&v, (300, 0))), [300, 200, 0]);
    }

    #[test]
    fn numbers_are_short() {
        let found = [0.0, 5e-5, 0.0015, 0.001, 0.5, 5.25, 60.0, 231.25, 2e6].map(number);
        assert_eq!(found, ["0", "5e-5", "0.0015", "0.001", "0.5", "5.25", "60", "231.2", "2e6"]);
    }
}
