//! The parameters that completions and chat completions share.

use std::collections::BTreeMap;

use mlx_llamba::{Generation, Sampling};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::options::Limits;
use crate::problem::Problem;

/// At most this many stop strings, each of at most so many characters.
const STOPS: usize = 16;
const STOP_CHARS: usize = 1024;
/// At most this many biases.
const BIASES: usize = 4096;

/// One or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum Stop {
    One(#[schemars(length(min = 1, max = 1024))] String),
    Many(#[schemars(length(max = 16), inner(length(min = 1, max = 1024)))] Vec<String>),
}

/// What to send at the end of a stream.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last chunk without choices that tells the usage.
    pub(crate) include_usage: Option<bool>,
}

/// How tokens are chosen, as both kinds of requests spell it.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
}

impl Common {
    /// Checks the parameters; `max_tokens` and `logprobs` are checked by the caller.
    pub(crate) fn generation(
        self,
        vocab: usize,
        max_tokens: usize,
        logprobs: Option<usize>,
    ) -> Result<Generation, Problem> {
        let within = |name: &'static str, value: Option<f32>, low: f32, high: f32, default: f32| {
            let value = value.unwrap_or(default);
            if (low..=high).contains(&value) {
                return Ok(value);
            }
            Err(Problem::parameter(name, format!("{value} is not between {low} and {high}")))
        };
        let top_p = within("top_p", self.top_p, 0.0, 1.0, 1.0)?;
        let repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
        if !(repetition_penalty > 0.0 && repetition_penalty <= 10.0) {
            let message = format!("{repetition_penalty} is not above 0 and at most 10");
            return Err(Problem::parameter("repetition_penalty", message));
        }
        let presence = within("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)?;
        let frequency = within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)?;
        let mut sampling = Sampling::plain()
            .temperature(within("temperature", self.temperature, 0.0, 2.0, 1.0)?)
            .top_k(self.top_k.unwrap_or(0) as usize)
            // OpenAI's servers take 0 for the likeliest token alone.
            .top_p(top_p.max(f32::MIN_POSITIVE))
            .min_p(within("min_p", self.min_p, 0.0, 1.0, 0.0)?)
            .repetition_penalty(repetition_penalty)
            .presence_penalty(presence)
            .frequency_penalty(frequency)
            .logit_bias(biases(self.logit_bias.unwrap_or_default(), vocab)?);
        sampling.seed = self.seed.map(|seed| seed as u64);
        let mut options = Generation::default().sampling(sampling).max_tokens(max_tokens);
        options.logprobs = logprobs;
        options.stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        if options.stop.len() > STOPS {
            return Err(Problem::parameter("stop", format!("more than {STOPS} strings")));
        }
        if options.stop.iter().any(|stop| stop.is_empty() || stop.chars().count() > STOP_CHARS) {
            let message = format!("every string needs 1 to {STOP_CHARS} characters");
            return Err(Problem::parameter("stop", message));
        }
        Ok(options)
    }
}

fn biases(given: BTreeMap<String, f32>, vocab: usize) -> Result<Vec<(u32, f32)>, Problem> {
    let bad = |message: String| Problem::parameter("logit_bias", message);
    if given.len() > BIASES {
        return Err(bad(format!("more than {BIASES} tokens")));
    }
    let mut biases = Vec::with_capacity(given.len());
    for (id, bias) in given {
        let fits = |&n: &u32| (n as usize) < vocab && n.to_string() == id;
        let number = id.parse().ok().filter(fits);
        let shown: String = id.chars().take(20).collect();
        let number =
            number.ok_or_else(|| bad(format!("{shown:?} is not a token id below {vocab}")))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(bad(format!("{bias} is not between -100 and 100")));
        }
        biases.push((number, bias));
    }
    Ok(biases)
}

/// The tokens that a request may generate.
pub(crate) fn max_tokens(
    name: &'static str,
    given: Option<u32>,
    default: usize,
    limits: &Limits,
) -> Result<usize, Problem> {
    match given {
        None => Ok(default.min(limits.max_tokens)),
        Some(n) if n as usize <= limits.max_tokens => Ok(n as usize),
        Some(n) => {
            let message = format!("{n}, but this server generates at most {}", limits.max_tokens);
            Err(Problem::parameter(name, message))
        }
    }
}

/// The continuations that a request asks for: `n` of each of its prompts.
pub(crate) fn choices(
    n: Option<u32>,
    prompts: usize,
    limits: &Limits,
    slots: usize,
) -> Result<usize, Problem> {
    let n = n.unwrap_or(1) as usize;
    if n == 0 || n > slots {
        return Err(Problem::parameter("n", format!("{n} is not between 1 and {slots}")));
    }
    if n * prompts > limits.choices {
        let message =
            format!("{prompts} prompts times {n}: more than {} continuations", limits.choices);
        return Err(Problem::parameter("n", message));
    }
    Ok(n)
}
