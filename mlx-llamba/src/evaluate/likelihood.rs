//! Sums of negative log-likelihoods.

use serde::Serialize;

/// The negative log-likelihood of some tokens under a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct NegativeLogLikelihood {
    /// The number of tokens predicted.
    pub tokens: u64,
    /// The number of bytes of their text.
    pub bytes: u64,
    /// The sum over the tokens, in nats.
    pub nats: f64,
}

impl NegativeLogLikelihood {
    /// The mean per token, in nats.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nats / self.tokens as f64 }
    }

    /// `exp` of the mean per token.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// Bits per byte of text, which do not depend on the tokenizer.
    #[must_use]
    pub fn bits_per_byte(&self) -> f64 {
        let bits = self.nats / std::f64::consts::LN_2;
        if self.bytes == 0 { 0.0 } else { bits / self.bytes as f64 }
    }

    pub(crate) fn add(&mut self, bytes: u64, nats: f64) {
        self.tokens += 1;
        self.bytes += bytes;
        self.nats += nats;
    }
}
