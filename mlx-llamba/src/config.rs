//! The configuration of a Llamba, from either published form.

mod json;
mod metadata;
mod quantization;
mod tensors;

use std::path::Path;

use mlx_llamba_kernels::{Activation, Dims};

use crate::error::{Error, FieldProblem, Result};
pub use quantization::Quantization;

pub(crate) use metadata::Tensors;
pub(crate) use tensors::{TensorKind, TensorSpec, specs};

/// Everything that determines a Llamba's shapes and mathematics.
///
/// A value of this type is valid: every size is at least 1 and so small that no product of
/// sizes overflows, `n_qk_heads` divides `n_v_heads`, and `n_v_heads` divides `d_inner`.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Embedding and head are padded to the next multiple of this many rows.
    pub pad_vocab_size_multiple: usize,
    /// The head uses the embedding's matrix.
    pub tie_embeddings: bool,
    /// The head has a bias.
    pub lm_head_bias: bool,
    /// Width of the residual stream.
    pub d_model: usize,
    /// The number of blocks, each a mixer and an MLP.
    pub n_layer: usize,
    /// Epsilon of the final norm; the blocks' norms always use 1e-5.
    pub norm_epsilon: f64,
    /// The MLPs.
    pub mlp: Mlp,
    /// The mixers.
    pub ssm: Ssm,
    /// The schemes of quantized matrices, in this library's own layout.
    pub quantization: Option<Quantization>,
    /// The rows of `in_proj` that give `A_log` are a matrix of their own, `mixer.A_log_proj`. Only
    /// in this library's own layout.
    pub split_a_log: bool,
    /// Ids that end a text, if the checkpoint's configuration names them.
    pub eos: Vec<u32>,
    /// Repository of the tokenizer, if the checkpoint's configuration names one.
    pub tokenizer: Option<String>,
}

/// Sizes of the MLPs, `down(silu(gate(x)) * up(x))`.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mlp {
    /// Width of the hidden layer.
    pub intermediate_size: usize,
    /// The three projections have biases.
    pub bias: bool,
}

/// Sizes of the mixers (Discrete-Mamba-2).
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssm {
    /// State dimension, `n`.
    pub d_state: usize,
    /// Value heads, `h`.
    pub n_v_heads: usize,
    /// Query/key groups, `g`.
    pub n_qk_heads: usize,
    /// `d_inner / d_model`.
    pub expand: usize,
    /// Chunk length that the model was trained with. Results do not depend on it.
    pub chunk_size: usize,
    /// Width of the convolution, `k`.
    pub d_conv: usize,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// The projections have biases; without them there is a `z_bias`.
    pub bias: bool,
    /// Activation after the convolution.
    pub activation: Activation,
}

impl Config {
    /// Parses a `config.json` of the published PyTorch form, with the `quantization` block of
    /// `mlx-lm` if there is one. `path` names the text in errors.
    ///
    /// # Errors
    /// [`Error::Json`]; [`Error::Config`] lists every bad field.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let value = crate::files::json::from_slice(text.as_bytes())
            .map_err(|source| Error::Json { path: path.to_owned(), source })?;
        json::parse(&value).map_err(|problems| bad(path, problems))
    }

    /// Parses the flattened configuration in a Cartesia MLX file's header. Its keys may be stale, so
    /// every size comes from the tensors, and the keys must agree with them.
    pub(crate) fn from_metadata(
        path: &Path,
        metadata: &std::collections::HashMap<String, String>,
        tensors: &Tensors<'_>,
    ) -> Result<Self> {
        metadata::parse(metadata, tensors).map_err(|problems| bad(path, problems))
    }

    /// The configuration as a `config.json` of the published PyTorch form, with further keys where
    /// their defaults do not apply, and `mlx-lm`'s block for a quantized model.
    pub fn to_json(&self) -> serde_json::Value {
        json::write(self)
    }

    /// The sizes of the mixers, as the kernels name them.
    pub fn dims(&self) -> Dims {
        Dims {
            h: self.ssm.n_v_heads,
            g: self.ssm.n_qk_heads,
            p: self.d_inner() / self.ssm.n_v_heads,
            n: self.ssm.d_state,
            k: self.ssm.d_conv,
        }
    }

    /// The canonical name and the shape of every tensor of the dense model, in the order in which a
    /// forward pass uses them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        specs(self).into_iter().map(|spec| (spec.name, spec.shape)).collect()
    }

    /// The inner width of the mixers.
    pub fn d_inner(&self) -> usize {
        self.d_model * self.ssm.expand
    }

    /// The number of rows of the embedding and of the head.
    pub fn padded_vocab(&self) -> usize {
        self.vocab_size.next_multiple_of(self.pad_vocab_size_multiple)
    }

    /// The size of one sequence's state in bytes: all layers' recurrent states in float32, and their
    /// convolution states with `conv_bytes` per element.
    pub fn state_bytes(&self, conv_bytes: usize) -> usize {
        self.n_layer * self.dims().state_bytes(conv_bytes)
    }
}

pub(crate) fn bad(path: &Path, problems: Vec<FieldProblem>) -> Error {
    Error::Config { path: path.to_owned(), problems }
}

/// The largest value of each size: far above any model, far below an overflow of their products.
mod limit {
    pub(super) const VOCAB: usize = 1 << 24;
    pub(super) const PAD: usize = 1 << 16;
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const LAYERS: usize = 1 << 12;
    pub(super) const HEADS: usize = 1 << 16;
    pub(super) const STATE: usize = 1 << 16;
    pub(super) const EXPAND: usize = 1 << 6;
    pub(super) const CONV: usize = 1 << 8;
    pub(super) const CHUNK: usize = 1 << 20;
    /// Rows of a matrix: MLX counts them in `i32`.
    pub(super) const ROWS: usize = i32::MAX as usize;
    /// Elements of a matrix; above, not even float32 bytes could be addressed sensibly.
    pub(super) const ELEMENTS: usize = 1 << 42;
}
