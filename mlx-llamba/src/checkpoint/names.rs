//! Which tensors a Llamba has, under which name in each layout.

use crate::config::Config;

/// What a tensor is, as far as storing it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A projection or an embedding, (out, in): may be quantized.
    Matrix,
    /// The convolution, (channels, width), stored with an axis of 1 in some layouts.
    Conv,
    /// Anything else: always dense.
    Dense,
}

/// A tensor that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Canonical name, which is layout A's.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
}

impl Slot {
    /// The name without `.weight`: what `.scales` and `.biases` hang on.
    pub(crate) fn prefix(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }
}

/// Every tensor of the model, in the order in which a forward pass meets them.
pub(crate) fn slots(config: &Config) -> Vec<Slot> {
    let mut slots = Slots(Vec::new());
    let (d, mlp, ssm, dims) = (config.d_model, &config.mlp, &config.ssm, config.dims());
    slots.matrix("backbone.embedding", config.padded_vocab(), d, false);
    for i in 0..config.n_layer {
        let layer = format!("backbone.layers.{i}");
        slots.dense(&format!("{layer}.input_layernorm.weight"), &[d]);
        let mixer = format!("{layer}.mixer");
        let split = if config.split_a_log { dims.h } else { 0 };
        slots.matrix(&format!("{mixer}.in_proj"), dims.in_proj_dim() - split, d, ssm.bias);
        if config.split_a_log {
            slots.dense(&format!("{mixer}.A_log_proj.weight"), &[dims.h, d]);
            if ssm.bias {
                slots.dense(&format!("{mixer}.A_log_proj.bias"), &[dims.h]);
            }
        }
        let conv = [dims.conv_dim(), dims.k];
        slots.push(format!("{mixer}.conv1d.weight"), &conv, Kind::Conv);
        if ssm.conv_bias {
            slots.dense(&format!("{mixer}.conv1d.bias"), &[dims.conv_dim()]);
        }
        if !ssm.bias {
            slots.dense(&format!("{mixer}.z_bias"), &[dims.d_inner()]);
        }
        slots.dense(&format!("{mixer}.D"), &[dims.h]);
        slots.matrix(&format!("{mixer}.out_proj"), d, dims.d_inner(), ssm.bias);
        slots.dense(&format!("{layer}.post_attention_layernorm.weight"), &[d]);
        slots.matrix(&format!("{layer}.mlp.gate_proj"), mlp.intermediate_size, d, mlp.bias);
        slots.matrix(&format!("{layer}.mlp.up_proj"), mlp.intermediate_size, d, mlp.bias);
        slots.matrix(&format!("{layer}.mlp.down_proj"), d, mlp.intermediate_size, mlp.bias);
    }
    slots.dense("backbone.final_layernorm.weight", &[d]);
    if !config.tie_embeddings {
        slots.matrix("lm_head", config.padded_vocab(), d, false);
    }
    if config.lm_head_bias {
        slots.dense("lm_head.bias", &[config.padded_vocab()]);
    }
    slots.0
}

struct Slots(Vec<Slot>);

impl Slots {
    fn push(&mut self, name: String, shape: &[usize], kind: Kind) {
        self.0.push(Slot { name, shape: shape.to_vec(), kind });
    }

    fn dense(&mut self, name: &str, shape: &[usize]) {
        self.push(name.to_owned(), shape, Kind::Dense);
    }

    fn matrix(&mut self, prefix: &str, rows: usize, columns: usize, bias: bool) {
        self.push(format!("{prefix}.weight"), &[rows, columns], Kind::Matrix);
        if bias {
            self.dense(&format!("{prefix}.bias"), &[rows]);
        }
    }
}

/// The name that a Cartesia MLX file has for a canonical name.
///
/// Mixers and MLPs alternate there, and the MLP's projections are misnamed: its `in_proj` is the
/// gate, its `gate_proj` is up, its `out_proj` is down.
pub(crate) fn cartesia(name: &str) -> String {
    let whole = [
        ("backbone.embedding.", "embedding.encoder."),
        ("backbone.final_layernorm.", "model.norm."),
        ("lm_head.", "head.linear."),
    ];
    for (ours, theirs) in whole {
        if let Some(rest) = name.strip_prefix(ours) {
            return format!("{theirs}{rest}");
        }
    }
    let layer = name.strip_prefix("backbone.layers.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(layer), part)) = layer.map(|(i, part)| (i.parse::<usize>(), part)) else {
        return name.to_owned();
    };
    let parts = [
        ("input_layernorm.", 0, "norm."),
        ("post_attention_layernorm.", 1, "norm."),
        ("mixer.conv1d.weight", 0, "layer.conv_weight"),
        ("mixer.conv1d.bias", 0, "layer.conv_bias"),
        ("mixer.", 0, "layer."),
        ("mlp.gate_proj.", 1, "layer.in_proj."),
        ("mlp.up_proj.", 1, "layer.gate_proj."),
        ("mlp.down_proj.", 1, "layer.out_proj."),
    ];
    for (ours, odd, theirs) in parts {
        if let Some(rest) = part.strip_prefix(ours) {
            return format!("model.layers.{}.{theirs}{rest}", 2 * layer + odd);
        }
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cartesia_names_map_as_documented() {
        for (ours, theirs) in [
            ("backbone.embedding.weight", "embedding.encoder.weight"),
            ("backbone.layers.3.input_layernorm.weight", "model.layers.6.norm.weight"),
            ("backbone.layers.3.post_attention_layernorm.weight", "model.layers.7.norm.weight"),
            ("backbone.layers.3.mixer.in_proj.scales", "model.layers.6.layer.in_proj.scales"),
            ("backbone.layers.3.mixer.conv1d.weight", "model.layers.6.layer.conv_weight"),
            ("backbone.layers.3.mixer.conv1d.bias", "model.layers.6.layer.conv_bias"),
            ("backbone.layers.3.mixer.D", "model.layers.6.layer.D"),
            ("backbone.layers.3.mlp.gate_proj.weight", "model.layers.7.layer.in_proj.weight"),
            ("backbone.layers.3.mlp.up_proj.bias", "model.layers.7.layer.gate_proj.bias"),
            ("backbone.layers.3.mlp.down_proj.biases", "model.layers.7.layer.out_proj.biases"),
            ("backbone.final_layernorm.weight", "model.norm.weight"),
            ("lm_head.weight", "head.linear.weight"),
        ] {
            assert_eq!(cartesia(ours), theirs);
        }
    }
}
