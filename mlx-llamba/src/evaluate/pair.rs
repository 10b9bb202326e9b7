//! Two models on the same texts.

use mlx_rs::transforms::eval;
use serde::Serialize;

use super::alone::{Prediction, Side};
use super::estimate::{Estimate, Mean};
use super::{Reader, agreements, divergences, losses};
use crate::error::{Error, Result};
use crate::host;
use crate::language::LanguageModel;

/// Two models on the same texts.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// Tokens predicted.
    pub tokens: u64,
    /// Texts in which tokens were predicted.
    pub documents: u64,
    /// Bytes of the texts; 0 where they are not known.
    pub bytes: u64,
    /// How well the reference predicts.
    pub reference: Prediction,
    /// How well the other model predicts.
    pub other: Prediction,
    /// The other's perplexity over the reference's; its errors are those of the difference token
    /// by token.
    pub perplexity_ratio: Estimate,
    /// Mean over tokens of KL(reference || other), in nats.
    pub mean_kl: Estimate,
    /// Share of tokens on which both find the same one likeliest.
    pub top1_agreement: Estimate,
}

/// Compares what two models of one vocabulary predict.
pub struct Pair<'m, R: LanguageModel, M: LanguageModel> {
    reference: Side<'m, R>,
    other: Side<'m, M>,
    /// Of the reference, of the other, and what the other has more.
    nats: [Mean; 3],
    kl: Mean,
    same: Mean,
}

impl<'m, R: LanguageModel, M: LanguageModel> Pair<'m, R, M> {
    /// Nothing counted so far.
    ///
    /// # Errors
    /// [`Error::Option`] if the vocabularies differ.
    pub fn new(reference: &'m R, other: &'m M) -> Result<Self> {
        let vocab = reference.vocab_size();
        if other.vocab_size() != vocab {
            return Err(Error::Option {
                option: "vocab_size",
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

    /// What both can read: they see the same.
    fn context_length(&self) -> Option<usize> {
        let both = [self.reference.model.context_length(), self.other.model.context_length()];
        both.into_iter().flatten().min()
    }

    fn anew(&mut self) -> Result<()> {
        self.reference.anew()?;
        self.other.anew()
    }

    fn skim(&mut self, tokens: &[u32]) -> Result<()> {
        self.reference.hidden(tokens)?;
        self.other.hidden(tokens)?;
        self.reference.settle(&[])?;
        self.other.settle(&[])
    }

    fn count(&mut self, tokens: &[u32], next: &[u32]) -> Result<()> {
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

    fn ends(&mut self, bytes: u64) {
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
