//! Recipes: TOML files with all options of a run except its teacher and its text.

mod parse;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use mlx_rs::Dtype;
use serde::{Deserialize, Serialize};

use crate::data::{Learned, Packing};
use crate::train::StageOptions;
use crate::{Error, Result};
pub(crate) use parse::bad;

/// The built-in recipes: names and texts.
pub const RECIPES: [(&str, &str); 3] = [
    ("tiny", include_str!("../recipes/tiny.toml")),
    ("smollm2", include_str!("../recipes/smollm2.toml")),
    ("tiny-teacher", include_str!("../recipes/tiny-teacher.toml")),
];

/// The options of a run: a distillation, or a training from random parameters.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The seed of the initial parameters and of the order of the text.
    #[serde(default)]
    pub seed: u64,
    /// The precision of matrix multiplications.
    #[serde(default)]
    pub compute: Precision,
    /// The sizes of a model that is trained from random parameters, under the names of a Llama's
    /// `config.json`; for a Llamba, those of the Llama that it could be the student of.
    pub model: Option<toml::Table>,
    /// The sizes and initial values of a Llamba that its teacher does not determine.
    #[serde(default)]
    pub student: StudentOptions,
    /// Options of the text.
    #[serde(default)]
    pub data: DataOptions,
    /// The stage that trains from random parameters.
    pub training: Option<StageOptions>,
    /// Stage 1 of MOHAWK.
    pub orientation: Option<StageOptions>,
    /// Stage 2 of MOHAWK.
    pub alignment: Option<StageOptions>,
    /// Stage 3 of MOHAWK.
    pub distillation: Option<StageOptions>,
    /// The evaluation on held-out text.
    #[serde(default)]
    pub evaluation: EvaluationOptions,
    /// The checkpoints of the run.
    #[serde(default)]
    pub checkpoint: CheckpointOptions,
}

/// The precision in which a run multiplies matrices. Parameters, their gradients and moments, residual
/// connections, the recurrence's state and losses are float32 in either, and so are all sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Float32, or what the device takes for it, such as TF32.
    #[default]
    Float32,
    /// Operands, results and gradients of products are rounded to bfloat16, on GPUs with the convolved
    /// rows of mixers, and the teacher is read in bfloat16.
    Bfloat16,
}

impl Precision {
    /// The dtype of products.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// Options of the student that its teacher does not determine.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudentOptions {
    /// State dimension; 0 stands for the width of the teacher's heads.
    pub state: usize,
    /// Width of the convolution.
    pub conv: usize,
    /// The mixers' projections have biases.
    pub bias: bool,
    /// Initial values of the mixers; calibrated unless `copy_qkvo` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<MixerInit>,
    /// The old spelling of two of them: true is `copy`, false is `random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_qkvo: Option<bool>,
    /// Factor of the copied C and of the copied B; 0 stands for `head_dim^(-1/4)`. Not with
    /// `calibrated`.
    pub copy_scale: f32,
    /// Initial value of D, the skip connection. Not with `calibrated`.
    pub skip: f32,
    /// Initial half-lives of the first heads, in tokens; those of the others are random, about one
    /// token. Not with `calibrated`.
    pub half_lives: Vec<f32>,
}

/// Initial values of the mixers, for which the teacher has no counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixerInit {
    /// C, B, x and out_proj begin as Q, K, V and O; the scale of C and B, the half-life and D of
    /// each head are fitted to the teacher's attention.
    Calibrated,
    /// C, B, x and out_proj begin as Q, K, V and O.
    Copy,
    /// Random projections.
    Random,
}

impl StudentOptions {
    /// The initial values of the mixers.
    #[must_use]
    pub fn mixer_init(&self) -> MixerInit {
        self.init.unwrap_or(match self.copy_qkvo {
            None => MixerInit::Calibrated,
            Some(true) => MixerInit::Copy,
            Some(false) => MixerInit::Random,
        })
    }
}

impl Default for StudentOptions {
    fn default() -> Self {
        Self {
            state: 0,
            conv: 4,
            bias: false,
            init: None,
            copy_qkvo: None,
            copy_scale: 0.0,
            skip: 1.0,
            half_lives: Vec::new(),
        }
    }
}

/// Options of the text.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// The field of a line of JSONL that holds the text.
    pub field: String,
    /// Documents 0, this, two times this and so on are held out and never trained on; 0: none.
    pub heldout_every: usize,
    /// Other held-out documents, a file or a directory. All of the text is then trained on.
    pub heldout: Option<PathBuf>,
    /// The positions at which windows begin: documents, sink or cut.
    pub packing: Packing,
    /// The share of each source of text, in any unit; without them the ratio is that of their tokens.
    /// With `packing = "documents"` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// The tokens whose prediction is learned in stage 3, or in a training without a teacher: all, or
    /// responses.
    #[serde(skip_serializing_if = "crate::train::is_default")]
    pub learned: Learned,
    /// The state is reset at the start of each document.
    pub resets: bool,
    /// The token that begins a document, in place of the tokenizer's own.
    pub begin: Option<String>,
    /// The token that ends a document, in place of the tokenizer's own.
    pub end: Option<String>,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            field: "text".into(),
            heldout_every: 50,
            heldout: None,
            packing: Packing::default(),
            weights: Vec::new(),
            learned: Learned::default(),
            resets: true,
            begin: None,
            end: None,
        }
    }
}

/// Evaluation on held-out text.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationOptions {
    /// Steps between two evaluations; 0: only at the end of a stage.
    pub every: u64,
    /// The maximum number of held-out tokens to read; 0: no evaluation.
    pub tokens: usize,
    /// The maximum number of tokens of a held-out document to read.
    pub length: usize,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { every: 100, tokens: 8192, length: 2048 }
    }
}

/// Options of checkpoints.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointOptions {
    /// Steps between two checkpoints; 0: only at the end of a stage.
    pub every: u64,
    /// The number of checkpoints to keep.
    pub keep: usize,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self { every: 100, keep: 2 }
    }
}

/// A stage. Its number is part of the seed of its text's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// Training from random parameters.
    Training = 0,
    /// Stage 1 of MOHAWK.
    Orientation = 1,
    /// Stage 2 of MOHAWK.
    Alignment = 2,
    /// Stage 3 of MOHAWK.
    Distillation = 3,
}

impl StageName {
    /// All stages, in their order.
    pub const ALL: [Self; 4] =
        [Self::Training, Self::Orientation, Self::Alignment, Self::Distillation];
    /// The stages of MOHAWK, in their order.
    pub const MOHAWK: [Self; 3] = [Self::Orientation, Self::Alignment, Self::Distillation];

    /// The name of the stage's table in a recipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Orientation => "orientation",
            Self::Alignment => "alignment",
            Self::Distillation => "distillation",
        }
    }

    /// Parses `all`, or numbers from 1 to 3 in ascending order: `2+3`.
    ///
    /// # Errors
    /// A message that lists the allowed values.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let stages: Option<Vec<Self>> = match text {
            "all" => Some(Self::MOHAWK.to_vec()),
            _ => text
                .split('+')
                .map(|number| match number.trim() {
                    "1" => Some(Self::Orientation),
                    "2" => Some(Self::Alignment),
                    "3" => Some(Self::Distillation),
                    _ => None,
                })
                .collect(),
        };
        stages
            .filter(|stages| stages.is_sorted_by(|a, b| a < b))
            .ok_or_else(|| "expected all, or stages in their order: 1, 2, 3, 1+2, 2+3".into())
    }
}

impl Recipe {
    /// Reads the recipe of a distillation; `origin` names it in errors. `changes` are `KEY=VALUE`,
    /// such as `alignment.lr=1e-4`, and override the text.
    ///
    /// # Errors
    /// [`Error::Recipe`] names the key.
    pub fn parse(origin: &str, text: &str, changes: &[String]) -> Result<Self> {
        let recipe: Self = parse::parse(origin, text, changes)?;
        if recipe.model.is_some() || recipe.training.is_some() {
            let key = if recipe.model.is_some() { "model" } else { "training" };
            let reason = "not of a distillation, whose student has the teacher's sizes; \
                          mlx-llamba train reads such a recipe";
            return Err(parse::bad(origin, key, reason));
        }
        parse::check(origin, &recipe)?;
        Ok(recipe)
    }

    /// Reads the recipe of a training from random parameters, as [`parse`](Self::parse).
    ///
    /// # Errors
    /// [`Error::Recipe`] names the key.
    pub fn parse_training(origin: &str, text: &str, changes: &[String]) -> Result<Self> {
        let recipe = parse::parse(origin, text, changes)?;
        let missing = [("model", recipe.model.is_none()), ("training", recipe.training.is_none())];
        if let Some((key, _)) = missing.iter().find(|(_, missing)| *missing) {
            let reason =
                "missing: it says what mlx-llamba train makes; recipe tiny-teacher has one";
            return Err(parse::bad(origin, key, reason));
        }
        if let Some(stage) = StageName::MOHAWK.into_iter().find(|&s| recipe.stage(s).is_some()) {
            let reason = "a stage of a distillation, which mlx-llamba distill runs";
            return Err(parse::bad(origin, stage.name(), reason));
        }
        parse::check(origin, &recipe)?;
        Ok(recipe)
    }

    /// The stages that the recipe has, in their order.
    pub fn stages(&self) -> impl Iterator<Item = (StageName, &StageOptions)> {
        StageName::ALL.into_iter().filter_map(|name| Some((name, self.stage(name)?)))
    }

    /// One of the stages.
    #[must_use]
    pub fn stage(&self, name: StageName) -> Option<&StageOptions> {
        match name {
            StageName::Training => self.training.as_ref(),
            StageName::Orientation => self.orientation.as_ref(),
            StageName::Alignment => self.alignment.as_ref(),
            StageName::Distillation => self.distillation.as_ref(),
        }
    }

    /// Returns the recipe with only the stages `wanted`. With `tokens`, that many are divided among
    /// these stages in the proportions of the recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the recipe lacks one of them.
    pub fn only(mut self, wanted: &[StageName], tokens: Option<u64>) -> Result<Self> {
        for &stage in wanted {
            if self.stage(stage).is_none() {
                let reason = "the recipe does not say how this stage is trained";
                return Err(parse::bad("the recipe", stage.name(), reason));
            }
        }
        let total: u64 =
            wanted.iter().filter_map(|&stage| self.stage(stage)).map(|o| o.tokens).sum();
        for name in StageName::ALL {
            let stage = match name {
                StageName::Training => &mut self.training,
                StageName::Orientation => &mut self.orientation,
                StageName::Alignment => &mut self.alignment,
                StageName::Distillation => &mut self.distillation,
            };
            if !wanted.contains(&name) {
                *stage = None;
            } else if let (Some(options), Some(tokens)) = (stage, tokens) {
                let share =
                    u128::from(options.tokens) * u128::from(tokens) / u128::from(total.max(1));
                options.tokens = share as u64;
            }
        }
        Ok(self)
    }
}

/// Returns the text of one of [`RECIPES`].
///
/// # Errors
/// [`Error::UnknownRecipe`], which lists them.
pub fn builtin(name: &str) -> Result<&'static str> {
    let found = RECIPES.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).ok_or_else(|| Error::UnknownRecipe { name: name.to_owned() })
}
