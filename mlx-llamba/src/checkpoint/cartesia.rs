//! Tensor names in Cartesia MLX files.

/// The name in a Cartesia MLX file for a canonical name.
///
/// Mixers and MLPs alternate there, and the MLP's projections have misleading names: `in_proj` is
/// the gate, `gate_proj` is up, `out_proj` is down.
pub(super) fn stored_name(name: &str) -> String {
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
            assert_eq!(stored_name(ours), theirs);
        }
    }
}
