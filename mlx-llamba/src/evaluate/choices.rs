//! Multiple-choice questions: the likelihoods of continuations of a text.
//!
//! Tokens and scores are those of EleutherAI's lm-evaluation-harness (0.4, `multiple_choice` with
//! the metrics of the same names), so results are comparable with its results.

use derive_setters::Setters;
use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use serde::Serialize;

use super::estimate::{Estimate, Ratio};
use super::question::Question;
use super::single::Side;
use super::{PIECE, log_probs, losses};
use crate::error::{Error, Result};
use crate::host;
use crate::language::LanguageModel;
use crate::tokenizer::Tokenizer;

/// Options of [`MultipleChoice`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Setters)]
pub struct MultipleChoiceOptions {
    /// The text between a context and a choice.
    #[setters(into)]
    pub delimiter: String,
    /// Begin every context with the tokens with which the tokenizer begins a text.
    pub bos: bool,
    /// Compute the likelihoods without a context too, for `acc_mutual_info`; takes about twice as
    /// long.
    pub mutual_information: bool,
}

impl Default for MultipleChoiceOptions {
    fn default() -> Self {
        Self { delimiter: " ".into(), bos: false, mutual_information: false }
    }
}

/// The likelihoods of the choices of a question.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The log-likelihood of each choice, in nats.
    pub likelihoods: Vec<f64>,
    /// Those without a context, if requested.
    pub alone: Option<Vec<f64>>,
    /// True if a context was truncated at its beginning to fit the model's limit.
    pub cut: bool,
}

/// A model that answers questions.
pub struct MultipleChoice<'m, M: LanguageModel> {
    model: &'m M,
    tokenizer: &'m Tokenizer,
    options: MultipleChoiceOptions,
    /// The token in place of an empty context.
    nothing: u32,
}

impl<'m, M: LanguageModel> MultipleChoice<'m, M> {
    /// Checks that the tokenizer fits the model.
    ///
    /// # Errors
    /// [`Error::TokenizerMismatch`] if the tokenizer belongs to another model; [`Error::Tokenizer`]
    /// if it has no token to begin a text with.
    pub fn new(
        model: &'m M,
        tokenizer: &'m Tokenizer,
        options: MultipleChoiceOptions,
    ) -> Result<Self> {
        tokenizer.check_vocabulary(model.vocab_size())?;
        let first = tokenizer.bos_id().or(tokenizer.eos_ids().first().copied());
        let nothing = first.ok_or_else(|| Error::Tokenizer {
            path: tokenizer.path().to_owned(),
            reason: "it has no token that begins or ends a text".into(),
        })?;
        Ok(Self { model, tokenizer, options, nothing })
    }

    /// Answers a question. The context is read once and each choice continues from there.
    ///
    /// # Errors
    /// Those of the tokenizer and of MLX.
    pub fn answer(&self, question: &Question) -> Result<Answer> {
        let mut cut = false;
        let likelihoods = self.likelihoods(&question.context, &question.choices, &mut cut)?;
        let alone = match self.options.mutual_information {
            true => Some(self.likelihoods("", &question.choices, &mut cut)?),
            false => None,
        };
        Ok(Answer { likelihoods, alone, cut })
    }

    fn likelihoods(&self, context: &str, choices: &[String], cut: &mut bool) -> Result<Vec<f64>> {
        let longest = self.model.context_length().unwrap_or(usize::MAX);
        let mut whole: Option<(Vec<u32>, Place<'m, M>)> = None;
        let mut found = Vec::with_capacity(choices.len());
        for choice in choices {
            let (before, after) = self.encode(context, choice)?;
            let surplus = (before.len() + after.len()).saturating_sub(longest);
            if surplus > 0 {
                *cut = true;
                // A choice needs a token before it.
                let before = &before[surplus.min(before.len() - 1)..];
                found.push(self.read(before)?.likelihood(&after)?);
                continue;
            }
            let place = match &mut whole {
                Some((read, place)) if *read == before => place,
                other => {
                    let place = self.read(&before)?;
                    &mut other.insert((before, place)).1
                }
            };
            found.push(place.likelihood(&after)?);
        }
        Ok(found)
    }

    /// Returns the tokens of the context, at least one, and those that the choice adds. White space
    /// between them belongs to the choice.
    fn encode(&self, context: &str, choice: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let joined = [context, &self.options.delimiter, choice].concat();
        let context = context.trim_end();
        if context.is_empty() {
            let after = self.tokenizer.encode(&joined, false)?;
            return Ok(match after.split_first() {
                Some((&first, rest)) if first == self.nothing => (vec![first], rest.to_vec()),
                _ => (vec![self.nothing], after),
            });
        }
        let before = self.tokenizer.encode(context, self.options.bos)?;
        let whole = self.tokenizer.encode(&joined, self.options.bos)?;
        let after = whole.get(before.len()..).unwrap_or_default().to_vec();
        Ok((before, after))
    }

    fn read(&self, context: &[u32]) -> Result<Place<'m, M>> {
        let mut side = Side::new(self.model)?;
        let mut last = None;
        for piece in context.chunks(PIECE) {
            let hidden = side.hidden(piece)?.try_index((0, -1, ..))?; // (d)
            side.settle(&[&hidden])?;
            last = Some(hidden);
        }
        let last = last.ok_or(Error::EmptyPrompt)?.expand_dims(0)?; // (1, d)
        let next = log_probs(&self.model.head(&last)?, self.model.vocab_size())?; // (1, vocab)
        Ok(Place { side, next })
    }
}

/// The end of a context.
struct Place<'m, M: LanguageModel> {
    side: Side<'m, M>,
    /// Log-probabilities (1, vocab) of the next token.
    next: Array,
}

impl<M: LanguageModel> Place<'_, M> {
    /// The log-likelihood of `ids` from here. Leaves the state as it is.
    fn likelihood(&self, ids: &[u32]) -> Result<f64> {
        let mut side = Side { model: self.side.model, state: self.side.state.clone() };
        let sum = |losses: Array| -> Result<f64> {
            Ok(host::floats(&losses)?.into_iter().map(f64::from).sum())
        };
        let Some((first, _)) = ids.split_first() else { return Ok(0.0) };
        let mut nats = sum(losses(&self.next, &side.row(&[*first])?)?)?;
        for (tokens, next) in ids[..ids.len() - 1].chunks(PIECE).zip(ids[1..].chunks(PIECE)) {
            let found = losses(&side.log_probs(tokens)?, &side.row(next)?)?;
            side.settle(&[&found])?;
            nats += sum(found)?;
        }
        Ok(-nats)
    }
}

/// The shares of right answers, by the normalization of likelihoods.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracies {
    /// The number of questions.
    pub questions: u64,
    /// Without normalization.
    pub acc: Estimate,
    /// Per character of the choice.
    pub acc_norm: Estimate,
    /// Per byte of the choice.
    pub acc_bytes: Estimate,
    /// By the gain of log-likelihood that the context brings.
    pub acc_mutual_info: Option<Estimate>,
    /// The number of questions whose context was truncated.
    pub cut: u64,
}

/// Counts right answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Score {
    acc: Ratio,
    acc_norm: Ratio,
    acc_bytes: Ratio,
    acc_mutual_info: Ratio,
    cut: u64,
}

impl Score {
    /// Counts an answer.
    pub fn add(&mut self, question: &Question, answer: &Answer) {
        let likelihoods = &answer.likelihoods;
        let right = |weigh: &dyn Fn(usize, f64) -> f64| {
            let weighed = likelihoods.iter().enumerate().map(|(i, &value)| weigh(i, value));
            f64::from(u8::from(likeliest(weighed) == Some(question.answer)))
        };
        let choices = &question.choices;
        self.acc.add(right(&|_, value| value), 1.0);
        self.acc_norm.add(right(&|i, value| value / choices[i].chars().count() as f64), 1.0);
        self.acc_bytes.add(right(&|i, value| value / choices[i].len() as f64), 1.0);
        if let Some(alone) = &answer.alone {
            self.acc_mutual_info.add(right(&|i, value| value - alone[i]), 1.0);
        }
        self.cut += u64::from(answer.cut);
    }

    /// The shares so far.
    #[must_use]
    pub fn accuracies(&self) -> Accuracies {
        let share = |ratio: &Ratio| Estimate {
            value: ratio.value(),
            error: ratio.error(),
            document_error: None,
        };
        Accuracies {
            questions: self.acc.count(),
            acc: share(&self.acc),
            acc_norm: share(&self.acc_norm),
            acc_bytes: share(&self.acc_bytes),
            acc_mutual_info: (self.acc_mutual_info.count() > 0)
                .then(|| share(&self.acc_mutual_info)),
            cut: self.cut,
        }
    }
}

/// The first of the largest values.
fn likeliest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let larger = |best: Option<(usize, f64)>, (i, value): (usize, f64)| match best {
        Some((_, most)) if value <= most => best,
        _ => Some((i, value)),
    };
    values.enumerate().fold(None, larger).map(|(i, _)| i)
}
