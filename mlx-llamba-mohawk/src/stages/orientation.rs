//! Stage 1: the mixers learn the attention matrices.

use mlx_llamba::Config;
use mlx_rs::Array;

use super::distance::mean_norm;
use super::{borders, of_layer, student};
use crate::{Batch, Objective, Parameters, Result};
use mlx_llamba_teacher::{Llama, Wanted};

/// Matrix orientation: `mean_{b, h} |attention_l - T_l(hidden_l)|_F` for each layer `l`.
///
/// `attention_l` (b, h, l, l) is the teacher's after the softmax, `T_l` the student's mixer as a
/// matrix over time ([`Model::mixing_matrix`](mlx_llamba::Model::mixing_matrix)), given the
/// teacher's hidden state before the layer.
///
/// Source: MOHAWK (arXiv 2408.10189), section 3.1.
#[derive(Debug, Clone)]
pub struct Orientation {
    teacher: Llama,
    student: Config,
    norms: bool,
}

impl Orientation {
    /// Trains what the matrix depends on: in_proj, the convolution and D of each layer.
    pub fn new(teacher: Llama, student: Config) -> Self {
        Self { teacher, student, norms: false }
    }

    /// Trains the norms before the mixers too, or not.
    #[must_use]
    pub fn norms(self, norms: bool) -> Self {
        Self { norms, ..self }
    }
}

impl Objective for Orientation {
    /// The input (b, l, d) of each layer, and its attention matrices (b, h, l, l).
    type Targets = Vec<(Array, Array)>;

    fn parts(&self) -> usize {
        self.student.n_layer
    }

    fn trains(&self, part: usize) -> Vec<String> {
        let mut parts = vec!["mixer.in_proj", "mixer.A_log_proj", "mixer.conv1d", "mixer.D"];
        parts.extend(self.norms.then_some("input_layernorm"));
        of_layer(&self.student, part, &parts)
    }

    fn targets(&self, batch: &Batch) -> Result<Self::Targets> {
        let wanted = Wanted { hidden: true, attention: true, logits: false };
        let trace = self.teacher.trace(&batch.tokens, batch.starts.as_ref(), wanted)?;
        Ok(trace.hidden.into_iter().zip(trace.attention).collect())
    }

    fn loss(
        &self,
        part: usize,
        parameters: &Parameters,
        batch: &Batch,
        targets: &Self::Targets,
    ) -> Result<Array> {
        let (hidden, attention) = super::target(targets, part)?;
        let student = student(&self.student, parameters)?;
        let T = student.mixing_matrix(part, hidden, borders(batch))?; // (b, h, l, l)
        Ok(mean_norm(attention, &T, &[-2, -1])?)
    }
}
