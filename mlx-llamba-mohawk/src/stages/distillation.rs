//! Stage 3: the student learns the teacher's predictions.

use derive_setters::Setters;
use mlx_llamba::Config;
use mlx_rs::{Array, Dtype};

use super::head::{Goal, Head, Means};
use super::{blocks, sorted};
use crate::{Batch, Objective, Parameters, Result};
use mlx_llamba_teacher::Llama;

/// Knowledge distillation: `(1 - w) t^2 KL(teacher || student) + w NLL`, mean over tokens, where
/// the distributions are `softmax(logits / t)` over the whole vocabulary and NLL is the negative
/// log-likelihood of the true next token. One part, which trains everything.
///
/// The KL divergence is the student's cross entropy with the teacher's softmax, minus the teacher's
/// entropy, which no student can change: the gradients are those of the cross entropy, and a student
/// that predicts as the teacher does has the value 0.
///
/// Sources: MOHAWK (arXiv 2408.10189), section 3.3; arXiv 1503.02531 for `t`.
#[derive(Debug, Clone, Setters)]
pub struct Distillation {
    #[setters(skip)]
    teacher: Llama,
    #[setters(skip)]
    student: Config,
    /// The weight `w` of the true next token, from 0 to 1.
    next_weight: f32,
    /// The temperature `t`, above 0.
    temperature: f32,
    /// Recomputes the activations of a block for its gradient instead of keeping them: less memory, a
    /// third more work.
    recompute: bool,
    /// The dtype of the student's products: float32, or bfloat16.
    products: Dtype,
}

/// Means over a batch's tokens, in nats: scalars in float32.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Losses {
    /// The loss that is minimized: see [`Distillation`].
    pub mixed: Array,
    /// The student's cross entropy with the teacher's softmax, at the temperature.
    pub cross_entropy: Array,
    /// KL(teacher || student) at the temperature: the cross entropy minus the teacher's entropy.
    pub kl: Array,
    /// Negative log-likelihood of the true next token, at temperature 1.
    pub next_token: Array,
}

impl Distillation {
    /// `w = 0`, `t = 1`.
    pub fn new(teacher: Llama, student: Config) -> Self {
        let products = Dtype::Float32;
        Self { teacher, student, next_weight: 0.0, temperature: 1.0, recompute: false, products }
    }

    /// Returns all losses of a batch, with the teacher's hidden states (b, l, d); lazy. Only the mixed one
    /// has gradients.
    ///
    /// # Errors
    /// Those of [`loss`](Objective::loss).
    pub fn losses(
        &self,
        parameters: &Parameters,
        batch: &Batch,
        teacher: &Array,
    ) -> Result<Losses> {
        let logits = |hidden: &Array| Ok(self.teacher.head(hidden)?);
        let goal = Goal {
            teacher: Some((teacher, &logits)),
            next: &batch.next,
            learned: batch.learned.as_deref(),
            next_weight: self.next_weight,
            temperature: self.temperature,
        };
        let (recompute, products) = (self.recompute, self.products);
        let hidden = blocks::hidden(&self.student, parameters, batch, recompute, products)?;
        let head = Head::of_llamba(&self.student, parameters, products)?;
        let Means { mixed, cross_entropy, kl, next_token } = head.compare(&hidden, goal)?;
        Ok(Losses { mixed, cross_entropy, kl, next_token })
    }
}

impl Objective for Distillation {
    /// The teacher's hidden states after the final norm, (b, l, d): its logits take more memory, and are
    /// computed for a few positions at a time.
    type Targets = Array;

    fn parts(&self) -> usize {
        1
    }

    fn trains(&self, part: usize) -> Vec<String> {
        if part > 0 {
            return Vec::new();
        }
        sorted(self.student.tensors().into_iter().map(|(name, _)| name))
    }

    fn precision(&self) -> Dtype {
        self.products
    }

    fn targets(&self, batch: &Batch) -> Result<Array> {
        Ok(self.teacher.documents(&batch.tokens, batch.starts.as_ref())?)
    }

    fn positions(&self, batch: &Batch) -> usize {
        batch.count_learned()
    }

    fn loss(
        &self,
        _part: usize,
        parameters: &Parameters,
        batch: &Batch,
        targets: &Array,
    ) -> Result<Array> {
        Ok(self.losses(parameters, batch, targets)?.mixed)
    }
}
