//! Options of loading and of generating.

use std::time::Duration;

use mlx_llamba::hub::HubOptions;
use mlx_llamba::{Generation, Sampling, Tokenizer};
use mlx_llamba_engine::Options;

/// Options for loading a model.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct LoadOptions {
    /// Another tokenizer than the model's own: a file, a directory or a hub repository.
    #[uniffi(default = None)]
    pub tokenizer: Option<String>,
    /// Downloads nothing: files of the hub must be in the cache.
    #[uniffi(default = false)]
    pub offline: bool,
    /// Texts that are computed at once; others wait. `None`: 64.
    #[uniffi(default = None)]
    pub rows: Option<u32>,
}

impl LoadOptions {
    pub(crate) fn hub(&self) -> mlx_llamba::Result<HubOptions> {
        let mut hub = HubOptions::from_env()?;
        hub.offline |= self.offline;
        Ok(hub)
    }

    /// The engine's options. A program waits for its own requests and conversations as long as it wants.
    pub(crate) fn engine(&self) -> Options {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let options = Options::default().request_timeout(YEAR).session_idle(YEAR).sessions(1 << 16);
        match self.rows {
            Some(rows) => options.rows(rows as usize),
            None => options,
        }
    }
}

/// Options for continuing a text. What is `None` is as the model suggests, or else the library's default.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct GenerationOptions {
    /// The most tokens to generate. `None`: 256.
    #[uniffi(default = None)]
    pub max_tokens: Option<u32>,
    /// 0 always takes the most likely token, 1 is the model's own distribution, more is flatter.
    #[uniffi(default = None)]
    pub temperature: Option<f32>,
    /// The number of most likely tokens to keep. 0: all.
    #[uniffi(default = None)]
    pub top_k: Option<u32>,
    /// Keeps the most likely tokens that together reach this probability, above 0. 1: all.
    #[uniffi(default = None)]
    pub top_p: Option<f32>,
    /// Keeps tokens with at least this fraction of the largest probability. 0: all.
    #[uniffi(default = None)]
    pub min_p: Option<f32>,
    /// Makes tokens of the prompt and the output less likely (above 1) or more (below). 1: off.
    #[uniffi(default = None)]
    pub repetition_penalty: Option<f32>,
    /// The seed of the random numbers; equal seeds give equal texts. `None`: a new one every time.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
    /// The text ends before any of these strings.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
}

impl GenerationOptions {
    pub(crate) fn over(&self, tokenizer: &Tokenizer) -> Generation {
        let mut sampling = tokenizer.suggested_sampling(Sampling::default());
        let set = |to: &mut f32, value: Option<f32>| *to = value.unwrap_or(*to);
        set(&mut sampling.temperature, self.temperature);
        set(&mut sampling.top_p, self.top_p);
        set(&mut sampling.min_p, self.min_p);
        set(&mut sampling.repetition_penalty, self.repetition_penalty);
        sampling.top_k = self.top_k.map_or(sampling.top_k, |k| k as usize);
        sampling.seed = self.seed.or(sampling.seed);
        let mut generation = Generation::default().sampling(sampling);
        generation.max_tokens = self.max_tokens.map_or(generation.max_tokens, |n| n as usize);
        generation.stop.clone_from(&self.stop);
        generation
    }
}
