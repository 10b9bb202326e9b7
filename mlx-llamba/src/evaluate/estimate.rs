//! Means and their standard errors.

use serde::Serialize;

/// A measured value.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error if tokens (or questions) are independent of each other; `None` for fewer
    /// than two.
    pub error: Option<f64>,
    /// Its standard error if only documents are independent of each other, not the tokens of each:
    /// the one to report where there are documents.
    pub document_error: Option<f64>,
}

impl Estimate {
    /// Returns a function of the estimate: its value, and errors scaled by its derivative `slope`.
    pub(super) fn map(self, value: f64, slope: f64) -> Self {
        let error = |error: f64| error * slope.abs();
        Self { value, error: self.error.map(error), document_error: self.document_error.map(error) }
    }

    /// `exp` of the estimate.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        self.map(value, value)
    }
}

/// The ratio of two sums over a sample of pairs `(y, w)`; with w = 1, the mean of `y`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ratio {
    count: u64,
    y: f64,
    w: f64,
    yy: f64,
    yw: f64,
    ww: f64,
}

impl Ratio {
    /// Adds a pair.
    pub fn add(&mut self, y: f64, w: f64) {
        self.count += 1;
        self.y += y;
        self.w += w;
        self.yy += y * y;
        self.yw += y * w;
        self.ww += w * w;
    }

    /// The number of pairs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of y divided by the sum of w; 0 without pairs.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.w == 0.0 { 0.0 } else { self.y / self.w }
    }

    /// The standard error of the ratio, from the residuals `y - value * w` (Cochran, Sampling
    /// Techniques, section 6.4); for a mean, the usual one. `None` for fewer than two pairs.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        let (n, r) = (self.count as f64, self.value());
        let squares = (self.yy - 2.0 * r * self.yw + r * r * self.ww).max(0.0);
        let defined = self.count > 1 && self.w > 0.0;
        defined.then(|| (n / (n - 1.0) * squares).sqrt() / self.w)
    }
}

/// A mean per token, with its errors over tokens and over documents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    tokens: Ratio,
    /// Weights are tokens.
    documents: Ratio,
    /// Weights are bytes.
    bytes: Ratio,
    /// The sum and the number of tokens of the present document.
    now: (f64, f64),
}

impl Mean {
    pub(super) fn add(&mut self, values: &[f32]) {
        for value in values.iter().map(|&value| f64::from(value)) {
            self.tokens.add(value, 1.0);
            self.now.0 += value;
            self.now.1 += 1.0;
        }
    }

    /// Ends a document. One without predictions is not counted.
    pub(super) fn end(&mut self, bytes: u64) {
        let (sum, tokens) = std::mem::take(&mut self.now);
        if tokens > 0.0 {
            self.documents.add(sum, tokens);
            self.bytes.add(sum, bytes as f64);
        }
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens.count()
    }

    pub(super) fn documents(&self) -> u64 {
        self.documents.count()
    }

    /// The number of bytes of the documents that have ended.
    pub(super) fn bytes(&self) -> f64 {
        self.bytes.w
    }

    /// Per token.
    pub(super) fn estimate(&self) -> Estimate {
        Estimate {
            value: self.tokens.value(),
            error: self.tokens.error(),
            document_error: self.documents.error(),
        }
    }

    /// Per byte; `None` if the bytes are unknown.
    pub(super) fn per_byte(&self) -> Option<Estimate> {
        let tokens_per_byte = self.tokens.w / self.bytes();
        (self.bytes() > 0.0).then(|| Estimate {
            value: self.bytes.value(),
            error: self.tokens.error().map(|error| error * tokens_per_byte),
            document_error: self.bytes.error(),
        })
    }
}
