//! The options that choose how tokens are drawn.

use mlx_llamba::Sampling;

#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(
        short, long, allow_negative_numbers = true,
        default_value_t = Sampling::default().temperature
    )]
    temperature: f32,
    /// Keep only this many of the likeliest tokens; 0 keeps all
    #[arg(long, allow_negative_numbers = true, default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, allow_negative_numbers = true, default_value_t = Sampling::default().top_p)]
    top_p: f32,
    /// Keep tokens with at least this share of the largest probability
    #[arg(long, allow_negative_numbers = true, default_value_t = Sampling::default().min_p)]
    min_p: f32,
    /// Above 1: tokens of the prompt and the output become less likely
    #[arg(
        long, value_name = "X", allow_negative_numbers = true,
        default_value_t = Sampling::default().repetition_penalty
    )]
    repetition_penalty: f32,
    /// Subtracted from the logits of tokens that stand in the output
    #[arg(
        long, value_name = "X", allow_negative_numbers = true,
        default_value_t = Sampling::default().presence_penalty
    )]
    presence_penalty: f32,
    /// Subtracted for each time a token stands in the output
    #[arg(
        long, value_name = "X", allow_negative_numbers = true,
        default_value_t = Sampling::default().frequency_penalty
    )]
    frequency_penalty: f32,
    /// How many of the last tokens the penalties look at [default: all]
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// Add to the logit of a token; may be given more than once
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Equal seeds give equal texts [default: another one every time]
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<u64>,
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or("expected ID=BIAS, such as 42=-1.5")?;
    let id = id.parse().map_err(|_| format!("{id} is not a token id"))?;
    let bias = bias.parse().map_err(|_| format!("{bias} is not a number"))?;
    Ok((id, bias))
}

impl SamplingArgs {
    /// The library's form of them.
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_window: self.penalty_window,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        }
    }
}
