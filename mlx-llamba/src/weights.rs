//! The sources that a model's weights come from: a checkpoint, random numbers, named arrays.

use mlx_llamba_kernels::Scheme;
use mlx_rs::Array;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;

/// A source of weights by canonical name.
pub(crate) trait Weights {
    /// The model's configuration.
    fn config(&self) -> &Config;
    /// Returns a tensor, lazily.
    fn array(&self, name: &str) -> Result<Array>;
    /// The quantization of the matrix `prefix.weight`; `None` if it is dense.
    fn scheme(&self, prefix: &str) -> Option<Scheme>;
    /// Returns true if there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;
    /// Identifies the weights.
    fn fingerprint(&self) -> String;
}

impl Weights for Checkpoint {
    fn config(&self) -> &Config {
        self.config()
    }

    fn array(&self, name: &str) -> Result<Array> {
        self.array(name)
    }

    fn scheme(&self, prefix: &str) -> Option<Scheme> {
        self.scheme(prefix)
    }

    fn contains(&self, name: &str) -> bool {
        self.contains(name)
    }

    fn fingerprint(&self) -> String {
        self.fingerprint()
    }
}
