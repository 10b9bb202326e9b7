//! Measurements of models on text: perplexity ([`Single`]), the distance between two models
//! ([`Pair`]), and accuracy on multiple-choice questions ([`MultipleChoice`]).
//!
//! [`Evaluation`] reads texts incrementally, in constant memory. A model with a limited context
//! reads them through a sliding [`Window`].

mod choices;
mod estimate;
mod likelihood;
mod pair;
mod predictions;
mod question;
mod single;
#[cfg(test)]
mod tests;
mod window;

pub use choices::{Accuracies, Answer, MultipleChoice, MultipleChoiceOptions, Score};
pub use estimate::{Estimate, Ratio};
pub use likelihood::NegativeLogLikelihood;
pub use pair::{Comparison, Pair};
pub use predictions::{agreements, divergences, log_probs, losses};
pub use question::{Fields, Question};
pub use single::{Perplexity, Prediction, Single};
pub use window::Window;

use crate::error::{Error, Result};
use crate::language::LanguageModel;
use crate::progress::{OnProgress, Progress};
use crate::units;
use window::Sliding;

/// The largest number of tokens per forward pass.
const PIECE: usize = 256;
/// The largest number of logits per forward pass, of which several copies exist in memory; but at
/// least [`SHORTEST`] tokens are read.
const LOGITS: usize = 1 << 24;
const SHORTEST: usize = 16;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, special ones at its beginning and end included.
    pub tokens: Vec<u32>,
    /// The number of bytes of its text.
    pub bytes: u64,
}

/// Models under measurement that read a text chunk by chunk: [`Single`] or [`Pair`].
pub trait Reader {
    /// The results.
    type Report;

    /// The number of entries of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// The number of tokens of the longest text that can be read; `None` if there is no limit.
    fn context_length(&self) -> Option<usize>;

    /// Returns to the empty state, at the beginning of a text or window.
    ///
    /// # Errors
    /// MLX's own.
    fn reset(&mut self) -> Result<()>;

    /// Reads tokens, at least one, without counting their predictions.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    fn advance(&mut self, tokens: &[u32]) -> Result<()>;

    /// Reads tokens, at least one, and counts the predictions of `next`, the token after each.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    fn score(&mut self, tokens: &[u32], next: &[u32]) -> Result<()>;

    /// Ends a text of `bytes` bytes.
    fn end(&mut self, bytes: u64);

    /// The results so far.
    fn report(&self) -> Self::Report;
}

/// Measures predictions of texts that arrive in parts, from the second token on.
pub struct Evaluation<R> {
    reader: R,
    window: Option<Sliding>,
    /// The token with which every window begins if the text does.
    bos: Option<u32>,
    piece: usize,
    text: Text,
}

/// The progress in a text.
#[derive(Default)]
struct Text {
    /// The last token pushed, which is still to be read.
    pending: Option<u32>,
    /// The token with which every window begins.
    begin: Option<u32>,
    /// The number of tokens read since the window began.
    read: usize,
    /// The last tokens read, which the next window reads again.
    recent: Vec<u32>,
}

impl<R: Reader> Evaluation<R> {
    /// Starts without a text. If a text begins with the token `bos`, so does every window.
    ///
    /// # Errors
    /// [`Error::Argument`] if the window is impossible.
    pub fn new(reader: R, window: Window, bos: Option<u32>) -> Result<Self> {
        let window = window.within(reader.context_length())?;
        let piece = (LOGITS / reader.vocab_size().max(1)).clamp(SHORTEST, PIECE);
        Ok(Self { reader, window, bos, piece, text: Text::default() })
    }

    /// Reads more of the text; the first call after [`end`](Self::end) begins another one.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], and what MLX reports.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let mut ids = ids;
        if self.text.pending.is_none() {
            let Some((first, rest)) = ids.split_first() else { return Ok(()) };
            self.reader.reset()?;
            let begin = self.bos.filter(|bos| bos == first);
            self.text = Text { pending: Some(*first), begin, ..Text::default() };
            ids = rest;
        }
        while let (Some(pending), false) = (self.text.pending, ids.is_empty()) {
            let room = match self.window {
                Some(window) => {
                    if self.text.read == window.length {
                        self.slide(window)?;
                    }
                    window.length - self.text.read
                }
                None => usize::MAX,
            };
            let (next, rest) = ids.split_at(ids.len().min(self.piece).min(room));
            let Some((last, before)) = next.split_last() else { break };
            let tokens = [&[pending], before].concat();
            self.reader.score(&tokens, next)?;
            self.text.read += tokens.len();
            self.text.pending = Some(*last);
            if let Some(window) = self.window {
                self.text.recent.extend(tokens);
                let surplus = self.text.recent.len().saturating_sub(window.kept(self.text.begin));
                self.text.recent.drain(..surplus);
            }
            ids = rest;
        }
        Ok(())
    }

    /// Begins the next window, with the last tokens of this one.
    fn slide(&mut self, window: Sliding) -> Result<()> {
        self.reader.reset()?;
        let begin = window.begin(self.text.begin);
        let seen: Vec<u32> = begin.into_iter().chain(self.text.recent.iter().copied()).collect();
        seen.chunks(self.piece).try_for_each(|piece| self.reader.advance(piece))?;
        self.text.read = seen.len();
        Ok(())
    }

    /// Ends the text, which had `bytes` bytes.
    pub fn end(&mut self, bytes: u64) {
        self.text = Text::default();
        self.reader.end(bytes);
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn document(&mut self, document: &Document) -> Result<()> {
        self.push(&document.tokens)?;
        self.end(document.bytes);
        Ok(())
    }

    /// Returns the results so far.
    pub fn report(&self) -> R::Report {
        self.reader.report()
    }
}

/// Compares the predictions of two models on one text, `ids`. The unit of the progress is a token.
///
/// # Errors
/// [`Error::Argument`] if the text has fewer than two tokens or the vocabularies differ;
/// [`Error::Interrupted`].
pub fn compare<R: LanguageModel, M: LanguageModel>(
    reference: &R,
    other: &M,
    ids: &[u32],
    window: Window,
    on_progress: OnProgress<'_>,
) -> Result<Comparison> {
    if ids.len() < 2 {
        return Err(Error::Argument {
            name: "text",
            value: units::count(ids.len() as u64, "token"),
            expected: "at least 2 tokens".into(),
        });
    }
    let mut evaluation = Evaluation::new(Pair::new(reference, other)?, window, None)?;
    let mut done = 0;
    for piece in ids.chunks(PIECE) {
        evaluation.push(piece)?;
        done += piece.len();
        Progress::new("", done as u64, ids.len() as u64).tell(on_progress)?;
    }
    evaluation.end(0);
    Ok(evaluation.report())
}
