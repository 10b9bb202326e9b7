//! The two kinds of models that a run trains, and what differs between them.

use std::path::{Path, PathBuf};

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::units::count;
use mlx_llamba::{Config, Model};
use mlx_llamba_teacher::{self as teacher, Llama, LlamaConfig};

use crate::data::Companions;
use crate::{Parameters, Result, student};

/// The sizes of a model of either kind.
#[derive(Debug, Clone)]
pub enum Architecture {
    /// A Transformer.
    Llama(LlamaConfig),
    /// A recurrent model.
    Llamba(Config),
}

impl Architecture {
    /// Names and shapes of all tensors, in the order in which a forward pass meets them.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Llama(config) => config.tensors(),
            Self::Llamba(config) => config.tensors(),
        }
    }

    /// Entries of the vocabulary that tokens may have.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::Llamba(config) => config.vocab_size,
        }
    }

    /// The number of values in all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Describes kind and sizes in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let millions = self.parameters() as f64 / 1e6;
        match self {
            Self::Llama(config) => format!(
                "a Llama of {millions:.1} M parameters: {}, width {}, {} of {}",
                count(config.num_hidden_layers as u64, "layer"),
                config.hidden_size,
                count(config.num_attention_heads as u64, "head"),
                config.head_dim
            ),
            Self::Llamba(config) => {
                let dims = config.dims();
                format!(
                    "a Llamba of {millions:.1} M parameters: {}, width {}, {} of {} with a state of {}",
                    count(config.n_layer as u64, "layer"),
                    config.d_model,
                    count(dims.h as u64, "head"),
                    dims.p,
                    dims.n
                )
            }
        }
    }

    /// Builds the model of these parameters, for inference.
    pub(crate) fn build(&self, parameters: &Parameters, backend: Backend) -> Result<Built> {
        Ok(match self {
            Self::Llama(config) => {
                Built::Llama(Llama::from_parameters(config, parameters, backend)?)
            }
            Self::Llamba(config) => {
                let dtype = Dtype::Float32;
                Built::Llamba(Model::from_parameters(config, parameters, dtype, backend)?)
            }
        })
    }

    /// Writes the model with its tokenizer to the directory `path` and returns its path.
    pub(crate) fn save(
        &self,
        parameters: &Parameters,
        companions: &Companions,
        path: &Path,
    ) -> Result<PathBuf> {
        let files = &companions.files;
        match self {
            Self::Llama(config) => Ok(teacher::save(config, parameters, files, path, true)?),
            Self::Llamba(config) => student::save(config, parameters, files, path, true),
        }
    }
}

/// A model of either kind with its weights.
pub(crate) enum Built {
    Llama(Llama),
    Llamba(Model),
}
