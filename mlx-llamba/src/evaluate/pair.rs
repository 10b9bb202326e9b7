//! The predictions of two models compared.

use mlx_rs::transforms::eval;
use serde::Serialize;

use super::estimate::{Estimate, Mean};
use super::single::{Prediction, Side};
use super::{Reader, agreements, divergences, losses};
use crate::error::{Error, Result};
use crate::host;
use crate::language::LanguageModel;

/// Results of [`Pair`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// The number of tokens predicted.
    pub tokens: u64,
    /// The number of texts in which tokens were predicted.
    pub documents: u64,
    /// The number of bytes of the texts; 0 if unknown.
    pub bytes: u64,
    /// The predictions of the reference.
    pub reference: Prediction,
    /// The predictions of the other model.
    pub other: Prediction,
    /// The other's perplexity divided by the reference's; its errors are computed from differences
    /// token by token.
    pub perplexity_ratio: Estimate,
    /// Mean over tokens of KL(reference || other), in nats.
    pub mean_kl: Estimate,
    /// The share of tokens at which both models have the same top-1 token.
    pub top1_agreement: Estimate,
}

/// Compares the predictions of two models with the same vocabulary.
pub struct Pair<'m, R: LanguageModel, M: LanguageModel> {
    reference: Side<'m, R>,
    other: Side<'m, M>,
    /// Of the reference, of the other, and their difference.
    nats: [Mean; 3],
    kl: Mean,
    same: Mean,
}

impl<'m, R: LanguageModel, M: LanguageModel> Pair<'m, R, M> {
    /// Starts with empty states.
    ///
    /// # Errors
    /// [`Error::Argument`] if the vocabularies differ.
    pub fn new(reference: &'m R, other: &'m M) -> Result<Self> {
        let vocab = reference.vocab_size();
        if other.vocab_size() != vocab {
            return Err(Error::Argument {
                name: "vocab_size",
                value: other.vocab_size().to_string(),
                expected: format!("{vocab}, as in the reference"),
            });
        }
        Ok(Self {
            reference: Side::new(reference)?,
            other: Side::new(other)?,
            nats: Default::default(),
            kl: Mean::default(),
            same: Mean::default(),
        })
    }
}

impl<R: LanguageModel, M: LanguageModel> Reader for Pair<'_, R, M> {
    type Report = Comparison;

    fn vocab_size(&self) -> usize {
        self.reference.model.vocab_size()
    }

    /// The smaller limit: both read the same tokens.
    fn context_length(&self) -> Option<usize> {
        let both = [self.reference.model.context_length(), self.other.model.context_length()];
        both.into_iter().flatten().min()
    }

    fn reset(&mut self) -> Result<()> {
        self.reference.reset()?;
        self.other.reset()
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<()> {
        self.reference.hidden(tokens)?;
        self.other.hidden(tokens)?;
        self.reference.settle(&[])?;
        self.other.settle(&[])
    }

    fn score(&mut self, tokens: &[u32], next: &[u32]) -> Result<()> {
        let next = self.reference.row(next)?; // (l)
        let p = self.reference.log_probs(tokens)?; // (l, vocab)
        let q = self.other.log_probs(tokens)?; // (l, vocab)
        let (first, second) = (losses(&p, &next)?, losses(&q, &next)?); // (l)
        let more = second.subtract(&first)?;
        let (kl, same) = (divergences(&p, &q)?, agreements(&p, &q)?); // (l)
        let found = [&first, &second, &more, &kl, &same];
        eval(self.reference.arrays().chain(self.other.arrays()).chain(found))?;
        let means = self.nats.iter_mut().chain([&mut self.kl, &mut self.same]);
        for (mean, values) in means.zip(found) {
            mean.add(&host::floats(values)?);
        }
        Ok(())
    }

    fn end(&mut self, bytes: u64) {
        let means = self.nats.iter_mut().chain([&mut self.kl, &mut self.same]);
        means.for_each(|mean| mean.end(bytes));
    }

    fn report(&self) -> Comparison {
        let [first, second, more] = &self.nats;
        Comparison {
            tokens: first.tokens(),
            documents: first.documents(),
            bytes: first.bytes() as u64,
            reference: Prediction::from(first),
            other: Prediction::from(second),
            perplexity_ratio: more.estimate().exp(),
            mean_kl: self.kl.estimate(),
            top1_agreement: self.same.estimate(),
        }
    }
}
