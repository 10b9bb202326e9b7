//! The fields that completions and chat completions share.

use std::collections::BTreeMap;

use mlx_llamba::constraint::Constraint;
use mlx_llamba::{Generation, Sampling};
use mlx_llamba_engine::{Prompt, Request};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::app::{App, Client};
use crate::problem::Problem;
use crate::request::raw::text_or;

/// One stop string or several.
#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    /// An empty string asks for nothing.
    One(#[schemars(length(max = 1024))] String),
    Many(#[schemars(length(max = 16), inner(length(min = 1, max = 1024)))] Vec<String>),
}

text_or!(Stop { One, Many }, "a string or a list of strings");

/// Options of a stream; without one they change nothing.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct StreamOptions {
    /// A last chunk without choices that reports the usage.
    pub(crate) include_usage: Option<bool>,
    /// The usage so far in every chunk.
    pub(crate) continuous_usage_stats: Option<bool>,
    /// Accepted and ignored.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// The fields that completions and chat completions share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Common {
    /// The model. There is one, which answers to any name unless the server is strict.
    pub(crate) model: Option<String>,
    /// The maximum number of tokens. -1, or more than the server allows, is as many as it allows.
    #[schemars(range(min = -1))]
    pub(crate) max_tokens: Option<i64>,
    /// Takes precedence over `max_tokens`.
    #[schemars(range(min = -1))]
    pub(crate) max_completion_tokens: Option<i64>,
    #[schemars(range(min = 0.0, max = 2.0))]
    pub(crate) temperature: Option<f32>,
    /// 0 chooses the most likely token.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) top_p: Option<f32>,
    /// -1 and 0 mean no limit.
    #[schemars(range(min = -1))]
    pub(crate) top_k: Option<i64>,
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) min_p: Option<f32>,
    #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 10.0))]
    pub(crate) repetition_penalty: Option<f32>,
    /// Another name of `repetition_penalty`, which takes precedence.
    #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 10.0))]
    pub(crate) repeat_penalty: Option<f32>,
    #[schemars(range(min = -2.0, max = 2.0))]
    pub(crate) presence_penalty: Option<f32>,
    #[schemars(range(min = -2.0, max = 2.0))]
    pub(crate) frequency_penalty: Option<f32>,
    /// Additions to the logits of tokens, by id.
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    /// Equal seeds give equal texts; choice `i` draws from `seed + i`.
    pub(crate) seed: Option<i64>,
    /// The text ends before any of these.
    pub(crate) stop: Option<Stop>,
    /// Continue after an end-of-text token.
    pub(crate) ignore_eos: Option<bool>,
    /// The number of choices, for each prompt.
    #[schemars(range(min = 1))]
    pub(crate) n: Option<u32>,
    /// Send the answer in pieces, as server-sent events.
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    /// Users of one client take turns within its turns.
    pub(crate) user: Option<String>,
    /// Share cached prompts only with requests that have the same salt.
    pub(crate) cache_salt: Option<String>,
}

impl Common {
    /// Returns a function that makes the engine's request of a prompt. Values outside their bounds
    /// were refused before.
    ///
    /// # Errors
    /// 400 for a bias of an unknown token.
    pub(crate) fn request<P: Into<Prompt>>(
        self,
        app: &App,
        client: &Client,
        default_tokens: usize,
        logprobs: Option<u32>,
        constraint: Option<Constraint>,
    ) -> Result<impl Fn(P) -> Request, Problem> {
        let (n, shared) = (self.n.unwrap_or(1) as usize, app.options.share_cache);
        let user: String = self.user.iter().flat_map(|user| user.chars().take(64)).collect();
        let (client, memory) = (client.name.clone(), client.memory.clone());
        let salt = self.cache_salt.clone().unwrap_or_default();
        let mut generation = self.generation(app, default_tokens, logprobs)?;
        generation.constraint = constraint;
        Ok(move |prompt: P| {
            let request = Request::new(prompt).generation(generation.clone()).choices(n);
            let request = request.client(client.clone()).user(user.clone()).hold(memory.clone());
            request.cache_salt(salt.clone()).shared_cache(shared)
        })
    }

    fn generation(
        self,
        app: &App,
        default_tokens: usize,
        logprobs: Option<u32>,
    ) -> Result<Generation, Problem> {
        let (vocab, limits) = (app.engine.vocab_size(), &app.options.limits);
        let penalty = self.repetition_penalty.or(self.repeat_penalty);
        let own = app.engine.tokenizer().suggested_sampling(Sampling::plain());
        let top_k = self.top_k.map(|k| usize::try_from(k).unwrap_or(0));
        let mut sampling = own
            .clone()
            .temperature(self.temperature.unwrap_or(own.temperature))
            .top_k(top_k.unwrap_or(own.top_k))
            // Numbers above 0 may be 0 as float32.
            .top_p(self.top_p.unwrap_or(own.top_p).max(f32::MIN_POSITIVE))
            .min_p(self.min_p.unwrap_or(own.min_p))
            .repetition_penalty(penalty.unwrap_or(own.repetition_penalty).max(f32::MIN_POSITIVE))
            .presence_penalty(self.presence_penalty.unwrap_or(0.0))
            .frequency_penalty(self.frequency_penalty.unwrap_or(0.0))
            .logit_bias(biases(self.logit_bias.unwrap_or_default(), vocab)?);
        sampling.seed = self.seed.map(|seed| seed as u64);
        let wanted = self.max_completion_tokens.or(self.max_tokens);
        let wanted = wanted.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let stop = match self.stop {
            Some(Stop::One(stop)) if !stop.is_empty() => vec![stop],
            Some(Stop::Many(stops)) => stops,
            _ => Vec::new(),
        };
        let max_tokens = wanted.unwrap_or(default_tokens).min(limits.max_tokens);
        let mut generation = Generation::default().sampling(sampling).max_tokens(max_tokens);
        generation.stop = stop;
        generation.eos = self.ignore_eos.unwrap_or(false).then(Vec::new);
        generation.logprobs = logprobs.map(|n| n as usize);
        Ok(generation)
    }

    /// Returns the chunks of a stream that report the usage.
    pub(crate) fn usage_wanted(&self) -> UsageWanted {
        let options = self.stream_options.clone().unwrap_or_default();
        let streams = self.stream.unwrap_or(false);
        UsageWanted {
            last: streams && options.include_usage.unwrap_or(false),
            every: streams && options.continuous_usage_stats.unwrap_or(false),
        }
    }
}

/// The chunks of a stream that report the usage.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UsageWanted {
    /// One more chunk, after the others.
    pub(crate) last: bool,
    /// Every chunk.
    pub(crate) every: bool,
}

fn biases(given: BTreeMap<String, f32>, vocab: usize) -> Result<Vec<(u32, f32)>, Problem> {
    let mut biases = Vec::with_capacity(given.len());
    for (id, bias) in given {
        let fits = |&n: &u32| (n as usize) < vocab && n.to_string() == id;
        let Some(number) = id.parse().ok().filter(fits) else {
            let shown: String = id.chars().take(20).collect();
            let message = format!("{shown:?} is not a token id below {vocab}");
            return Err(Problem::parameter("logit_bias", message));
        };
        biases.push((number, bias));
    }
    Ok(biases)
}
