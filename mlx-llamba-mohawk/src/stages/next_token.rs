//! Training from scratch: a model learns to predict the next token.

use derive_setters::Setters;
use mlx_llamba::kernels::Backend;
use mlx_rs::{Array, Dtype};

use super::head::{Goal, Head};
use super::{blocks, sorted};
use crate::{Architecture, Batch, Objective, Parameters, Result};
use mlx_llamba_teacher::Llama;

/// The mean negative log-likelihood of the next tokens, `-log softmax(logits)[next]`, in
/// nats. One part, which trains everything.
#[derive(Debug, Clone, Setters)]
pub struct NextToken {
    #[setters(skip)]
    architecture: Architecture,
    /// The dtype of the model's products: float32, or bfloat16.
    products: Dtype,
}

impl NextToken {
    /// Trains a model of this kind.
    pub fn new(architecture: Architecture) -> Self {
        Self { architecture, products: Dtype::Float32 }
    }
}

impl Objective for NextToken {
    type Targets = ();

    fn parts(&self) -> usize {
        1
    }

    fn trains(&self, part: usize) -> Vec<String> {
        let tensors = if part > 0 { Vec::new() } else { self.architecture.tensors() };
        sorted(tensors.into_iter().map(|(name, _)| name))
    }

    fn precision(&self) -> Dtype {
        self.products
    }

    fn targets(&self, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    fn positions(&self, batch: &Batch) -> usize {
        batch.count_learned()
    }

    fn loss(
        &self,
        _part: usize,
        parameters: &Parameters,
        batch: &Batch,
        _targets: &(),
    ) -> Result<Array> {
        let (hidden, head) = match &self.architecture {
            Architecture::Llama(config) => {
                let backend = Backend::with_gradients()?.with_products(self.products);
                let llama = Llama::from_parameters(config, parameters, backend)?;
                let hidden = llama.documents(&batch.tokens, batch.starts.as_ref())?;
                (hidden, Head::of_llama(config, parameters, self.products)?)
            }
            Architecture::Llamba(config) => {
                let hidden = blocks::hidden(config, parameters, batch, false, self.products)?;
                (hidden, Head::of_llamba(config, parameters, self.products)?)
            }
        };
        let goal = Goal {
            teacher: None,
            next: &batch.next,
            learned: batch.learned.as_deref(),
            next_weight: 1.0,
            temperature: 1.0,
        };
        Ok(head.compare(&hidden, goal)?.mixed)
    }
}
