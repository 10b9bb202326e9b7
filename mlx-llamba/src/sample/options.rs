//! The options of sampling and the values that they may have.

use derive_setters::Setters;

use crate::error::{Error, Result};

/// Options for choosing the next token.
///
/// The default suits open-ended text: temperature 0.8, top-k 40, top-p 0.95, a new seed every
/// time, no penalties. [`Sampling::greedy`] is deterministic.
///
/// The steps, in this order:
///
/// | step | option | what it does |
/// |---|---|---|
/// | 1 | | drops the padding entries of the vocabulary: an id `>= vocab` is never sampled |
/// | 2 | `logit_bias` | adds to single logits; `-inf` bans a token, `+inf` allows only such tokens |
/// | 3 | `repetition_penalty` | CTRL: logits of tokens in the last 1024 of the prompt or in the output are divided by it if positive, multiplied if negative |
/// | 4 | `frequency_penalty` | subtracts it once for each time a token stands in the output |
/// | 5 | `presence_penalty` | subtracts it once if a token stands in the output |
/// | 6 | `temperature` | 0 ends here with the largest logit (the lowest id of equals); otherwise divides |
/// | 7 | `top_k` | keeps exactly the k largest; of equals at the border, the lowest ids |
/// | 8 | `top_p` | of what is left, renormalized: keeps the smallest set of largest probabilities whose sum reaches p, so the token that crosses p stays; of equals at the border, the lowest ids |
/// | 9 | `min_p` | keeps tokens at least min_p times as probable as the most likely |
/// | 10 | `seed` | draws from what is left, in proportion to the probabilities |
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Setters)]
#[setters(strip_option)]
pub struct Sampling {
    /// Scales the distribution: 0 always takes the most likely token, 1 is the model's own distribution,
    /// more is flatter.
    pub temperature: f32,
    /// The number of most likely tokens to keep. 0: all.
    pub top_k: usize,
    /// Keeps the most likely tokens that together reach this probability, above 0. 1: all.
    pub top_p: f32,
    /// Keeps tokens with at least this fraction of the largest probability, 0 to 1. 0: all.
    pub min_p: f32,
    /// Makes tokens of the prompt and the output less likely (above 1) or more (below). 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from a logit if the token stands in the output. 0: off.
    pub presence_penalty: f32,
    /// Subtracted from a logit for each time the token stands in the output. 0: off.
    pub frequency_penalty: f32,
    /// The number of last tokens to which the three penalties apply. `None`: all.
    pub penalty_window: Option<usize>,
    /// Added to the logits of single tokens: `(id, bias)`. `-inf` bans the token; where any bias
    /// is `+inf`, only the tokens with `+inf` can be sampled. The last of equal ids counts.
    pub logit_bias: Vec<(u32, f32)>,
    /// The seed of the random numbers; equal seeds give equal tokens. `None`: a new one every time.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, ..Self::plain() }
    }
}

impl Sampling {
    /// Temperatures below this one count as 0.
    pub const GREEDY_BELOW: f32 = 1e-5;

    /// The most likely token, always.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::plain() }
    }

    /// The model's own distribution: temperature 1 and nothing else.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: None,
            logit_bias: Vec::new(),
            seed: None,
        }
    }

    /// Checks every option against a vocabulary of `vocab` entries, padding not counted.
    ///
    /// # Errors
    /// [`Error::Argument`] names the first option that cannot be used.
    pub fn validate(&self, vocab: usize) -> Result<()> {
        let number = |option, value: f32, good: bool, expected: &str| {
            check(option, value.to_string(), good, expected)
        };
        let (t, finite) = (self.temperature, f32::is_finite);
        number("temperature", t, finite(t) && t >= 0.0, "a finite number, 0 or more")?;
        number("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1")?;
        number("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let r = self.repetition_penalty;
        number("repetition_penalty", r, finite(r) && r > 0.0, "a finite number above 0")?;
        let presence = self.presence_penalty;
        number("presence_penalty", presence, finite(presence), "a finite number")?;
        let frequency = self.frequency_penalty;
        number("frequency_penalty", frequency, finite(frequency), "a finite number")?;
        if let Some(window) = self.penalty_window {
            let good = (1..=i32::MAX as usize).contains(&window);
            check("penalty_window", window.to_string(), good, "at least 1 token")?;
        }
        for &(id, bias) in &self.logit_bias {
            let (value, good) = (format!("{id}: {bias}"), (id as usize) < vocab && !bias.is_nan());
            check("logit_bias", value, good, &format!("an id below {vocab} and a number"))?;
        }
        self.some_token_left(vocab)
    }

    /// Returns true if the two are equal apart from the seed and the biases.
    pub(crate) fn same_numbers(&self, other: &Self) -> bool {
        let Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            penalty_window,
            logit_bias: _,
            seed: _,
        } = *self;
        temperature == other.temperature
            && (top_k, penalty_window) == (other.top_k, other.penalty_window)
            && (top_p, min_p) == (other.top_p, other.min_p)
            && repetition_penalty == other.repetition_penalty
            && presence_penalty == other.presence_penalty
            && frequency_penalty == other.frequency_penalty
    }

    /// Sampling needs at least one token that is not banned.
    fn some_token_left(&self, vocab: usize) -> Result<()> {
        let last: std::collections::HashMap<u32, f32> = self.logit_bias.iter().copied().collect();
        let banned = last.values().filter(|&&bias| bias == f32::NEG_INFINITY).count();
        let value = format!("{banned} tokens banned");
        check("logit_bias", value, banned < vocab, "at least one token of the vocabulary left")
    }
}

fn check(option: &'static str, value: String, good: bool, expected: &str) -> Result<()> {
    if good {
        Ok(())
    } else {
        Err(Error::Argument { name: option, value, expected: expected.to_owned() })
    }
}
