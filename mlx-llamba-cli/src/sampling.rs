//! The sampling options.

use mlx_llamba::{Sampling, Tokenizer};

#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Sampling temperature; 0 always takes the most likely token, higher is more varied [default:
    /// the model's own, or else 0.8]
    #[arg(short, long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep only the K most likely tokens; 0 keeps all [default: the model's own, or else 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Keep the most likely tokens that together reach this probability [default: the model's own,
    /// or else 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens with at least this fraction of the largest probability [default: the model's own,
    /// or else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1, make tokens of the prompt and the output less likely [default: the model's own, or
    /// else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that occur in the output
    #[arg(
        long, value_name = "X", allow_negative_numbers = true,
        default_value_t = Sampling::default().presence_penalty
    )]
    presence_penalty: f32,
    /// Subtract this for each occurrence of a token in the output
    #[arg(
        long, value_name = "X", allow_negative_numbers = true,
        default_value_t = Sampling::default().frequency_penalty
    )]
    frequency_penalty: f32,
    /// Number of the last tokens that penalties consider [default: all]
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// Add a bias to the logit of a token; may be given more than once
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Seed; equal seeds give equal texts [default: random]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, such as 42=-1.5")?;
    let id = id.parse().map_err(|_| format!("{id} is not a token id"))?;
    let value = bias.parse().ok().filter(|value: &f32| value.is_finite());
    Ok((id, value.ok_or_else(|| format!("{bias} is not a number, or too large"))?))
}

impl SamplingArgs {
    /// Converts to the library's options; those that are not given are the model's own.
    pub(crate) fn sampling(&self, tokenizer: Option<&Tokenizer>) -> Sampling {
        let otherwise = Sampling::default();
        let mut sampling = match tokenizer {
            Some(tokenizer) => tokenizer.suggested_sampling(otherwise),
            None => otherwise,
        };
        let set = |option: &mut f32, given: Option<f32>| *option = given.unwrap_or(*option);
        set(&mut sampling.temperature, self.temperature);
        set(&mut sampling.top_p, self.top_p);
        set(&mut sampling.min_p, self.min_p);
        set(&mut sampling.repetition_penalty, self.repetition_penalty);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        let mut sampling = sampling
            .presence_penalty(self.presence_penalty)
            .frequency_penalty(self.frequency_penalty)
            .logit_bias(self.logit_bias.clone());
        (sampling.penalty_window, sampling.seed) = (self.penalty_window, self.seed);
        sampling
    }
}
