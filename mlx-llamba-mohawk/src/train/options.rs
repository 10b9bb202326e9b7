//! The options of a stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AdamW, Schedule};
use crate::stages::Compared;

/// Options of a stage; a table of a recipe.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageOptions {
    /// The number of tokens to read.
    pub tokens: u64,
    /// Learning rate of the stable part.
    pub lr: f64,
    /// The number of windows of a step.
    pub batch: usize,
    /// The number of windows in memory at a time, over which the gradients of a step are summed; 0:
    /// all.
    #[serde(default)]
    pub micro_batch: usize,
    /// The number of tokens of a window.
    pub length: usize,
    /// The fraction of steps in which the learning rate rises.
    #[serde(default = "tenth")]
    pub warmup: f64,
    /// The fraction of steps in which it falls.
    #[serde(default = "tenth")]
    pub decay: f64,
    /// Decay of matrices: norms, biases and D have none.
    #[serde(default = "tenth")]
    pub weight_decay: f64,
    /// Decay of the mean gradient.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// The largest norm of a part's gradient, to which larger ones are clipped; 0: no clipping.
    #[serde(default = "one")]
    pub clip: f64,
    /// A loss above this multiple of the median of the previous ones ends the run.
    #[serde(default = "ten")]
    pub explosion: f64,
    /// Stage 1: the quantity that is compared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compared: Compared,
    /// Trains the blocks' norms too. For stages 1 and 2; later ones train everything.
    #[serde(default)]
    pub norms: bool,
    /// Trains the MLPs too. For stage 2.
    #[serde(default)]
    pub mlp: bool,
    /// The weight of the true next token in the loss, 0 to 1; the rest is for the teacher's
    /// predictions. For stage 3.
    #[serde(default)]
    pub next_token: f64,
    /// The divisor of both logits before they are compared. For stage 3.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Recomputes the activations of a block for its gradient, instead of keeping them: less
    /// memory, a third more work. For stage 3; the others train layer by layer.
    #[serde(default)]
    pub recompute: bool,
    /// Frozen parameters: names, or their last parts, with `*` for any text.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Factors of the learning rate by patterns of names, such as for copied parameters, which need
    /// little change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lr_factors: BTreeMap<String, f64>,
    /// Matrices that Muon trains instead of AdamW, as patterns like [`freeze`](Self::freeze).
    #[serde(default)]
    pub muon: Vec<String>,
    /// The number of rows that Muon treats as one matrix, such as those of a head; 0: all rows. One
    /// number, or a table of numbers by pattern, as in [`lr_factors`](Self::lr_factors).
    #[serde(default)]
    pub muon_rows: MuonRows,
}

/// The rows of Muon's blocks, for all matrices or by patterns of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MuonRows {
    /// For all matrices.
    All(usize),
    /// By pattern; other matrices are a single block.
    By(BTreeMap<String, usize>),
}

impl Default for MuonRows {
    fn default() -> Self {
        Self::All(0)
    }
}

/// True for a value that a recipe need not name.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn tenth() -> f64 {
    0.1
}

fn beta1() -> f64 {
    AdamW::default().beta1
}

fn beta2() -> f64 {
    AdamW::default().beta2
}

fn one() -> f64 {
    1.0
}

fn ten() -> f64 {
    10.0
}

impl StageOptions {
    /// The number of steps that read at least `tokens` tokens.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil(self.tokens_per_step().max(1))
    }

    /// The number of tokens that a step reads.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch * self.length) as u64
    }

    /// The learning rate's schedule.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule { steps: self.steps(), warmup: self.warmup, decay: self.decay }
    }

    /// The factor of the learning rate for the parameter `name`: the product of all
    /// [`lr_factors`](Self::lr_factors) whose patterns match.
    #[must_use]
    pub fn lr_factor(&self, name: &str) -> f64 {
        let fitting =
            self.lr_factors.iter().filter(|(pattern, _)| mlx_llamba::names::matches(pattern, name));
        fitting.map(|(_, factor)| factor).product()
    }

    /// The rows of Muon's blocks of the matrix `name`; 0: all.
    #[must_use]
    pub fn muon_rows(&self, name: &str) -> usize {
        match &self.muon_rows {
            MuonRows::All(rows) => *rows,
            MuonRows::By(patterns) => {
                let fitting =
                    patterns.iter().find(|(pattern, _)| mlx_llamba::names::matches(pattern, name));
                fitting.map_or(0, |(_, rows)| *rows)
            }
        }
    }

    /// Returns the first field with an invalid value: its name and the allowed values.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let fine = |value: f64| value.is_finite() && value >= 0.0;
        let checks = [
            ("lr", self.lr.is_finite() && self.lr > 0.0, "a number above 0"),
            ("batch", (1..=1 << 20).contains(&self.batch), "a number from 1 to 1048576"),
            ("length", (2..=1 << 20).contains(&self.length), "a number from 2 to 1048576"),
            ("warmup", part(self.warmup), "a number from 0 to 1"),
            ("decay", part(self.decay), "a number from 0 to 1"),
            ("decay", self.warmup + self.decay <= 1.0, "at most 1 together with warmup"),
            ("weight_decay", fine(self.weight_decay), "a number, 0 or above"),
            ("beta1", (0.0..1.0).contains(&self.beta1), "a number from 0 to below 1"),
            ("beta2", (0.0..1.0).contains(&self.beta2), "a number from 0 to below 1"),
            ("clip", fine(self.clip), "a number, 0 or above"),
            ("next_token", part(self.next_token), "a number from 0 to 1"),
            ("temperature", self.temperature.is_finite() && self.temperature > 0.0, "above 0"),
            ("explosion", self.explosion > 1.0, "a number above 1"),
            ("lr_factors", self.lr_factors.values().all(|&f| fine(f)), "numbers, 0 or above"),
        ];
        checks.iter().find(|(_, sound, _)| !sound).map(|&(field, _, expected)| (field, expected))
    }
}
