//! The loss that a training run minimizes.

use mlx_rs::{Array, Dtype};

use crate::{Batch, Parameters, Result};

/// A loss in independent parts: one per layer (stages 1 and 2) or a single one (stage 3).
///
/// Parts share no trained parameter, so they can be trained together, or one after the other in the
/// memory of one.
pub trait Objective {
    /// The constants that the parts are compared with, such as the teacher's outputs; computed
    /// once per batch.
    type Targets;

    /// The number of parts.
    fn parts(&self) -> usize;

    /// Returns the names of the parameters that part `part` trains, in order; empty past the last
    /// part.
    fn trains(&self, part: usize) -> Vec<String>;

    /// The dtype of products, those of Muon among them.
    fn precision(&self) -> Dtype {
        Dtype::Float32
    }

    /// Computes the constants of a batch.
    ///
    /// # Errors
    /// Errors of the teacher.
    fn targets(&self, batch: &Batch) -> Result<Self::Targets>;

    /// The number of positions that the losses of a batch are means of.
    fn positions(&self, batch: &Batch) -> usize {
        batch.tokens.size()
    }

    /// Returns the loss of part `part`: a scalar in float32, a mean over [positions](Self::positions).
    ///
    /// `parameters` holds all tensors of the model. The loss is differentiable in those that the
    /// part trains; the others are constants. Lazy.
    ///
    /// # Errors
    /// Errors of the model, and of MLX for shapes that do not fit.
    fn loss(
        &self,
        part: usize,
        parameters: &Parameters,
        batch: &Batch,
        targets: &Self::Targets,
    ) -> Result<Array>;
}
