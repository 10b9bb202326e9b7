//! Reads the configurations of the supported families.

use mlx_llamba::config::Quantization;
use mlx_llamba::files::{Fields, Problems};
use serde_json::Value;

use super::LlamaConfig;
use crate::limits;
use crate::rope::Rope;

/// The supported families, with the names of their classes.
const FAMILIES: [(&str, &str); 7] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("smollm3", "SmolLM3ForCausalLM"),
    ("granite", "GraniteForCausalLM"),
];

/// Returns the family that a configuration names.
///
/// # Errors
/// The name, if it is none of [`FAMILIES`].
pub(super) fn family(config: &Value) -> Result<&'static str, String> {
    let kind = config["model_type"].as_str().unwrap_or("nameless");
    let Some((family, expected)) = FAMILIES.into_iter().find(|(family, _)| *family == kind) else {
        return Err(kind.to_owned());
    };
    match config["architectures"][0].as_str() {
        Some(class) if class != expected => Err(class.to_owned()),
        _ => Ok(family),
    }
}

/// Explains why a family is not supported.
pub(crate) fn refusal(found: &str) -> &'static str {
    let found = found.to_lowercase();
    let reasons = [
        ("moe", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("mixtral", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("gemma", "its norms and its scaling of embeddings and logits differ from Llama's"),
        ("gpt2", "it has learned positions and LayerNorm instead of rotary positions and RMSNorm"),
        ("gpt_neox", "its blocks run attention and MLP in parallel, with LayerNorm"),
        ("falcon", "its blocks run attention and MLP in parallel, with LayerNorm"),
        ("phimoe", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("mamba", "it is no Transformer and has no attention to distill"),
        ("deepseek", "its keys and values are compressed, and its MLPs are mixtures of experts"),
        ("llama4", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("gpt_oss", "its MLPs are mixtures of experts, which a Llamba does not have"),
        ("olmo2", "its norms come after attention and MLP, not before them"),
        ("cohere", "its blocks run attention and MLP in parallel, with LayerNorm"),
        ("gptj", "its blocks run attention and MLP in parallel, with LayerNorm"),
        (
            "bloom",
            "it has biases of distance and LayerNorm instead of rotary positions and RMSNorm",
        ),
        ("mpt", "it has biases of distance and LayerNorm instead of rotary positions and RMSNorm"),
        ("stablelm", "it has LayerNorm instead of RMSNorm"),
        ("starcoder2", "it has LayerNorm instead of RMSNorm"),
        ("classification", "it has no head that predicts tokens"),
    ];
    let reason = reasons.into_iter().find(|(part, _)| found.contains(part));
    reason.map_or("it is no family that is known here", |(_, reason)| reason)
}

pub(super) fn read(family: &str, f: &Fields<'_>, problems: &Problems) -> Option<LlamaConfig> {
    use limits::{CONTEXT, HEADS, LAYERS, VOCAB, WIDTH};
    let vocab_size = f.size("vocab_size", None, VOCAB);
    let hidden_size = f.size("hidden_size", None, WIDTH);
    let intermediate_size = f.size("intermediate_size", None, WIDTH);
    let num_hidden_layers = f.size("num_hidden_layers", None, LAYERS);
    let heads = f.size("num_attention_heads", None, HEADS);
    let kv_heads = f.size("num_key_value_heads", heads, HEADS);
    let derived = match family {
        "qwen3" => Some(128), // the default of its configuration
        _ => hidden_size.zip(heads).map(|(d, h)| (d / h).max(1)),
    };
    let head_dim = f.size("head_dim", derived, WIDTH);
    if let (None, Some((d, h))) = (f.get("head_dim"), hidden_size.zip(heads))
        && family != "qwen3"
        && !d.is_multiple_of(h)
    {
        f.add("num_attention_heads", h, format!("a divisor of hidden_size = {d}"));
    }
    let rms_norm_eps = f.epsilon("rms_norm_eps", if family == "phi3" { 1e-5 } else { 1e-6 });
    let context = match family {
        "mistral" => 1 << 17,
        "qwen2" | "qwen3" | "smollm3" => 1 << 15,
        "phi3" => 4096,
        _ => 2048,
    };
    let max_position_embeddings = f.size("max_position_embeddings", Some(context), CONTEXT);
    let tie_word_embeddings = f.flag("tie_word_embeddings", Some(family == "smollm3"));
    // Each family has its own switches, and ignores those of others.
    let switch = |key: &str, families: &[&str]| match families.contains(&family) {
        true => f.flag(key, Some(false)),
        false => Some(false),
    };
    let attention_bias = switch("attention_bias", &["llama", "qwen3", "smollm3", "granite"]);
    let mlp_bias = switch("mlp_bias", &["llama", "smollm3", "granite"]);
    let sliding_window = match family {
        "mistral" | "phi3" if f.get("sliding_window").is_some() => {
            f.size("sliding_window", None, CONTEXT).map(Some)
        }
        _ => Some(None),
    };
    if switch("use_sliding_window", &["qwen2", "qwen3", "smollm3"]) == Some(true) {
        f.add("use_sliding_window", true, "false: windows of some layers only are not known here");
    }
    if let Some(found) = f
        .get("hidden_act")
        .filter(|found| !["silu", "swish"].contains(&found.as_str().unwrap_or("")))
    {
        f.add("hidden_act", found, "\"silu\"");
    }
    // Newer files have one block with the base and the scaling, older ones two fields.
    let block = f.get("rope_parameters").or_else(|| f.get("rope_scaling"));
    if let Some(other) = block.filter(|block| !block.is_object()) {
        f.add("rope_scaling", other, "an object");
    }
    let block = block.and_then(Value::as_object);
    let within = |key: &str| {
        let inner = block.filter(|block| block.contains_key(key));
        inner.map_or(*f, |block| Fields::new(block, problems))
    };
    let rotary_dim = rotary_dim(family, &within("partial_rotary_factor"), head_dim);
    let first = f.get("original_max_position_embeddings").is_some();
    let first = match first || family == "phi3" {
        true => f.size("original_max_position_embeddings", Some(4096), CONTEXT),
        false => None,
    };
    let rope = match (block, max_position_embeddings.zip(rotary_dim)) {
        (Some(block), Some((context, r))) => Rope::parse(block, context, first, r / 2, problems),
        (Some(_), None) => None,
        (None, _) => Some(Rope::Default),
    };
    let usual = if family == "smollm3" { 2e6 } else { 1e4 };
    let rope_theta =
        within("rope_theta").number("rope_theta", Some(usual), "a number above 1", |base| {
            base > 1.0 && base < 1e12
        });
    let no_rope = match family {
        "smollm3" => listed_no_rope(f, num_hidden_layers),
        _ => Some(Vec::new()),
    };
    let config = LlamaConfig {
        vocab_size: vocab_size?,
        hidden_size: hidden_size?,
        intermediate_size: intermediate_size?,
        num_hidden_layers: num_hidden_layers?,
        num_attention_heads: heads?,
        num_key_value_heads: kv_heads?,
        head_dim: head_dim?,
        rms_norm_eps: rms_norm_eps?,
        rope_theta: rope_theta?,
        rope: rope?,
        rotary_dim: rotary_dim?,
        no_rope: no_rope?,
        max_position_embeddings: max_position_embeddings?,
        tie_word_embeddings: tie_word_embeddings?,
        qkv_bias: attention_bias? || family == "qwen2",
        out_bias: attention_bias?,
        qk_norm: family == "qwen3",
        sliding_window: sliding_window?,
        mlp_bias: mlp_bias?,
        bos: f.ids("bos_token_id").first().copied(),
        eos: f.ids("eos_token_id"),
    };
    config.check(problems);
    Some(config)
}

/// The values of a head that positions turn.
fn rotary_dim(family: &str, f: &Fields<'_>, head_dim: Option<usize>) -> Option<usize> {
    let Some(found) = f.get("partial_rotary_factor") else { return head_dim };
    let part = found.as_f64().unwrap_or(0.0);
    let turned = (head_dim? as f64 * part) as usize;
    if part == 1.0 {
        return head_dim;
    }
    if family != "phi3" || !(0.0..1.0).contains(&part) || turned == 0 || turned % 2 == 1 {
        let expected = match family {
            "phi3" => "1, or a part of a head that is a number of pairs",
            _ => "1: this family turns whole heads",
        };
        f.add("partial_rotary_factor", found, expected);
        return None;
    }
    Some(turned)
}

/// Every `interval`-th of the layers.
pub(crate) fn no_rope(interval: usize, layers: usize) -> Vec<usize> {
    (0..layers).filter(|i| (i + 1).is_multiple_of(interval)).collect()
}

/// The layers of SmolLM3 that turn nothing: those with a 0 in a list, or every n-th one.
fn listed_no_rope(f: &Fields<'_>, layers: Option<usize>) -> Option<Vec<usize>> {
    let layers = layers?;
    let Some(list) = f.get("no_rope_layers") else {
        let every = f.size("no_rope_layer_interval", Some(4), limits::LAYERS)?;
        return Some(no_rope(every, layers));
    };
    let turned: Option<Vec<bool>> = list.as_array().and_then(|list| {
        let turned = |value: &Value| value.as_f64().map(|x| x != 0.0).or(value.as_bool());
        list.iter().map(turned).collect()
    });
    let Some(turned) = turned.filter(|turned| turned.len() >= layers) else {
        f.add("no_rope_layers", list, format!("a list of {layers} times 0 or 1"));
        return None;
    };
    Some((0..layers).filter(|&i| !turned[i]).collect())
}

/// The schemes of matrices of codes, which `mlx-lm` writes under two names.
pub(super) fn schemes(f: &Fields<'_>, problems: &Problems) -> Option<Quantization> {
    let (block, other) = (f.get("quantization"), f.get("quantization_config"));
    if let Some(method) = other.and_then(|other| other.get("quant_method")) {
        let expected =
            "none: give the model as it was before, one that mlx-lm quantized, or a GGUF";
        f.add("quantization_config", method, expected);
        return None;
    }
    Quantization::parse(block.or(other)?, "quantization", problems)
}
