//! A sum of negative log-likelihoods, and what it is per token and per byte.

use serde::Serialize;

/// How well the model predicted some tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Surprise {
    /// Tokens predicted.
    pub tokens: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Sum of their negative log-likelihoods, in nats.
    pub nats: f64,
}

impl Surprise {
    /// Mean negative log-likelihood of a token, in nats.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nats / self.tokens as f64 }
    }

    /// `exp` of it.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// The same in bits a byte of text, which does not depend on the tokenizer.
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
