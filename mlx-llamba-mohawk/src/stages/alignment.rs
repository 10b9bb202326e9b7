//! Stage 2: the layers learn the hidden states.

use derive_setters::Setters;
use mlx_llamba::Config;
use mlx_llamba::mlx::Dtype;
use mlx_llamba_kernels::MixerState;
use mlx_rs::Array;
use mlx_rs::ops::mean;

use super::{borders, of_layer, student_layer};
use crate::{Batch, Objective, Parameters, Result};
use mlx_llamba_teacher::{Llama, Wanted};

/// Hidden-state alignment: `mean_{b, t} |hidden_{l+1} - layer_l(hidden_l)|_2` for each layer `l`.
///
/// The hidden states are the teacher's, `layer_l` is the student's mixer and MLP. The last hidden
/// state is taken before the final norm.
///
/// Source: MOHAWK (arXiv 2408.10189), section 3.2.
#[derive(Debug, Clone, Setters)]
pub struct Alignment {
    #[setters(skip)]
    teacher: Llama,
    #[setters(skip)]
    student: Config,
    /// Trains the blocks' norms too, or not.
    norms: bool,
    /// Trains the MLPs too, or not.
    mlp: bool,
    /// The dtype of the student's products: float32, or bfloat16.
    products: Dtype,
}

impl Alignment {
    /// Trains the mixers.
    pub fn new(teacher: Llama, student: Config) -> Self {
        Self { teacher, student, norms: false, mlp: false, products: Dtype::Float32 }
    }
}

impl Objective for Alignment {
    /// The input and output of each layer, (b, l, d).
    type Targets = Vec<(Array, Array)>;

    fn parts(&self) -> usize {
        self.student.n_layer
    }

    fn trains(&self, part: usize) -> Vec<String> {
        let mut parts = vec!["mixer."];
        parts.extend(self.mlp.then_some("mlp."));
        if self.norms {
            parts.extend(["input_layernorm", "post_attention_layernorm"]);
        }
        of_layer(&self.student, part, &parts)
    }

    fn precision(&self) -> Dtype {
        self.products
    }

    fn targets(&self, batch: &Batch) -> Result<Self::Targets> {
        let wanted = Wanted { hidden: true, attention: false, logits: false };
        let hidden = self.teacher.trace(&batch.tokens, batch.starts.as_ref(), wanted)?.hidden;
        let pairs = hidden.iter().zip(hidden.iter().skip(1));
        Ok(pairs.map(|(x, y)| (x.clone(), y.clone())).collect())
    }

    fn loss(
        &self,
        part: usize,
        parameters: &Parameters,
        batch: &Batch,
        targets: &Self::Targets,
    ) -> Result<Array> {
        let (x, expected) = super::target(targets, part)?;
        let student = student_layer(&self.student, parameters, part, self.products)?;
        let b = batch.tokens.dim(0) as usize;
        let state = MixerState::zeros(b, self.student.dims(), Dtype::Float32)?;
        // A teacher in 16 bits has such hidden states.
        let x = x.as_dtype(Dtype::Float32)?;
        let (x, y, _) = student.block_summands(0, &x, borders(batch), &state)?; // (b, l, d)
        Ok(mean(student.backend().distances(&x, &y, expected)?, None)?)
    }
}
