//! Means with their standard errors.

use serde::Serialize;

/// A measured number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error, as if tokens (or questions) were independent of each other; `None` for
    /// fewer than two.
    pub error: Option<f64>,
    /// The same, as if documents were independent of each other, and the tokens of each not: the
    /// honest one, where there are documents.
    pub document_error: Option<f64>,
}

impl Estimate {
    /// A function of it; `slope` is the function's slope there.
    pub(super) fn map(self, value: f64, slope: f64) -> Self {
        let error = |error: f64| error * slope.abs();
        Self { value, error: self.error.map(error), document_error: self.document_error.map(error) }
    }

    /// `exp` of it.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        self.map(value, value)
    }
}

/// The ratio of two sums over a sample of pairs `(y, w)`: with w = 1, the mean of `y`.
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
    /// One more pair.
    pub fn add(&mut self, y: f64, w: f64) {
        self.count += 1;
        self.y += y;
        self.w += w;
        self.yy += y * y;
        self.yw += y * w;
        self.ww += w * w;
    }

    /// Pairs so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of y over sum of w; 0 of nothing.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.w == 0.0 { 0.0 } else { self.y / self.w }
    }

    /// Its standard error, from the spread of what is left, `y - value * w` (Cochran, Sampling
    /// Techniques, section 6.4); of a mean, the usual one. `None` for fewer than two pairs.
    #[must_use]
    pub fn error(&self) -> Option<f64> {
        let (n, r) = (self.count as f64, self.value());
        let squares = (self.yy - 2.0 * r * self.yw + r * r * self.ww).max(0.0);
        let defined = self.count > 1 && self.w > 0.0;
        defined.then(|| (n / (n - 1.0) * squares).sqrt() / self.w)
    }
}

/// A mean over tokens, and the same seen as one over documents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    tokens: Ratio,
    /// Weights are tokens.
    documents: Ratio,
    /// Weights are bytes.
    bytes: Ratio,
    /// Sum and tokens of the document that is being read.
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

    /// A document ends; one of which nothing was predicted is none.
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

    /// Bytes of the documents that have ended.
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

    /// Per byte; `None` where no bytes were told.
    pub(super) fn per_byte(&self) -> Option<Estimate> {
        let tokens_per_byte = self.tokens.w / self.bytes();
        (self.bytes() > 0.0).then(|| Estimate {
            value: self.bytes.value(),
            error: self.tokens.error().map(|error| error * tokens_per_byte),
            document_error: self.bytes.error(),
        })
    }
}
