//! The memory and time that a run takes.

use mlx_llamba_teacher::Llama;

use crate::architecture::Architecture;
use crate::recipe::{Recipe, StageName};
use crate::train::StageCost;

/// An estimate of what the rest of a run takes on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// The stages that are left, in their order.
    pub stages: Vec<(StageName, StageCost)>,
}

impl Cost {
    /// The largest number of bytes in any stage.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stages.iter().map(|(_, cost)| cost.bytes).max().unwrap_or(0)
    }

    /// Seconds of all steps that are left.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|(_, cost)| cost.seconds).sum()
    }
}

/// A lower bound of the bytes that a run needs, without activations, which is known before any memory
/// is allocated.
pub(super) fn least_bytes(
    recipe: &Recipe,
    architecture: &Architecture,
    teacher: Option<&Llama>,
) -> u64 {
    // Float32 parameters; a stage that trains all of them has their gradients and two moments too.
    let all = recipe.stage(StageName::Training).or(recipe.stage(StageName::Distillation)).is_some();
    let copies = if all { 4 } else { 1 };
    let teacher = teacher.map_or(0, |teacher| teacher.weight_bytes() as u64);
    teacher + 4 * copies * architecture.parameters()
}
