//! The tensors of a Llamba.

use super::Config;

/// The kinds of tensors, which differ in how they can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TensorKind {
    /// A projection or an embedding, (out, in); can be quantized.
    Matrix,
    /// The convolution, (channels, width); some layouts store it with an axis of 1.
    Conv,
    /// Anything else; always dense.
    Dense,
}

/// A tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// Canonical name: the PyTorch layout's.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: TensorKind,
}

impl TensorSpec {
    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a matrix, which can be quantized.
    pub(crate) fn is_matrix(&self) -> bool {
        self.kind == TensorKind::Matrix
    }

    /// The name without `.weight`; `.scales` and `.biases` are added to it.
    pub(crate) fn prefix(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }
}

/// Every tensor of the model, in the order in which a forward pass meets them.
pub(crate) fn specs(config: &Config) -> Vec<TensorSpec> {
    let mut specs = Specs(Vec::new());
    let (d, mlp, ssm, dims) = (config.d_model, &config.mlp, &config.ssm, config.dims());
    specs.matrix("backbone.embedding", config.padded_vocab(), d, false);
    for i in 0..config.n_layer {
        let layer = format!("backbone.layers.{i}");
        specs.dense(&format!("{layer}.input_layernorm.weight"), &[d]);
        let mixer = format!("{layer}.mixer");
        let split = if config.split_a_log { dims.h } else { 0 };
        specs.matrix(&format!("{mixer}.in_proj"), dims.in_proj_dim() - split, d, ssm.bias);
        if config.split_a_log {
            specs.dense(&format!("{mixer}.A_log_proj.weight"), &[dims.h, d]);
            if ssm.bias {
                specs.dense(&format!("{mixer}.A_log_proj.bias"), &[dims.h]);
            }
        }
        let conv = [dims.conv_dim(), dims.k];
        specs.push(format!("{mixer}.conv1d.weight"), &conv, TensorKind::Conv);
        if ssm.conv_bias {
            specs.dense(&format!("{mixer}.conv1d.bias"), &[dims.conv_dim()]);
        }
        if !ssm.bias {
            specs.dense(&format!("{mixer}.z_bias"), &[dims.d_inner()]);
        }
        specs.dense(&format!("{mixer}.D"), &[dims.h]);
        specs.matrix(&format!("{mixer}.out_proj"), d, dims.d_inner(), ssm.bias);
        specs.dense(&format!("{layer}.post_attention_layernorm.weight"), &[d]);
        specs.matrix(&format!("{layer}.mlp.gate_proj"), mlp.intermediate_size, d, mlp.bias);
        specs.matrix(&format!("{layer}.mlp.up_proj"), mlp.intermediate_size, d, mlp.bias);
        specs.matrix(&format!("{layer}.mlp.down_proj"), d, mlp.intermediate_size, mlp.bias);
    }
    specs.dense("backbone.final_layernorm.weight", &[d]);
    if !config.tie_embeddings {
        specs.matrix("lm_head", config.padded_vocab(), d, false);
    }
    if config.lm_head_bias {
        specs.dense("lm_head.bias", &[config.padded_vocab()]);
    }
    specs.0
}

struct Specs(Vec<TensorSpec>);

impl Specs {
    fn push(&mut self, name: String, shape: &[usize], kind: TensorKind) {
        self.0.push(TensorSpec { name, shape: shape.to_vec(), kind });
    }

    fn dense(&mut self, name: &str, shape: &[usize]) {
        self.push(name.to_owned(), shape, TensorKind::Dense);
    }

    fn matrix(&mut self, prefix: &str, rows: usize, columns: usize, bias: bool) {
        self.push(format!("{prefix}.weight"), &[rows, columns], TensorKind::Matrix);
        if bias {
            self.dense(&format!("{prefix}.bias"), &[rows]);
        }
    }
}
