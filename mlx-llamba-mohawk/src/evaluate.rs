//! Evaluation of a student on held-out text: perplexity, and divergence from its teacher.

pub use mlx_llamba::evaluate::Document;
use mlx_llamba::evaluate::{Comparison, Evaluation, Perplexity, Prediction, Reader, Window};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Means over the predicted tokens of held-out documents, each read from an empty state.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Tokens predicted.
    pub tokens: usize,
    /// `exp` of the student's mean negative log-likelihood.
    pub perplexity: f64,
    /// The student's negative log-likelihood in bits, per byte of text.
    pub bits_per_byte: f64,
    /// The teacher's perplexity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub teacher_perplexity: Option<f64>,
    /// The teacher's bits per byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub teacher_bits_per_byte: Option<f64>,
    /// Mean of KL(teacher || student), in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// The fraction of tokens for which both have the same top-1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agreement: Option<f64>,
}

/// Reads documents with a model, or with a teacher and its student.
///
/// # Errors
/// Those of the models.
pub(crate) fn evaluate<R: Reader>(documents: &[Document], reader: R) -> Result<Metrics>
where
    Metrics: From<R::Report>,
{
    let mut evaluation = Evaluation::new(reader, Window::default(), None)?;
    documents.iter().try_for_each(|document| evaluation.document(document))?;
    Ok(evaluation.report().into())
}

/// The perplexity, and the bits per byte or 0 if the bytes are unknown.
fn values(prediction: &Prediction) -> (f64, f64) {
    let bits = prediction.bits_per_byte.map_or(0.0, |bits| bits.value);
    (prediction.perplexity.value, bits)
}

impl From<Perplexity> for Metrics {
    fn from(found: Perplexity) -> Self {
        let (perplexity, bits_per_byte) = values(&found.prediction);
        Self { tokens: found.tokens as usize, perplexity, bits_per_byte, ..Self::default() }
    }
}

/// The reference is the teacher.
impl From<Comparison> for Metrics {
    fn from(found: Comparison) -> Self {
        let (perplexity, bits_per_byte) = values(&found.other);
        let (teacher_perplexity, teacher_bits_per_byte) = values(&found.reference);
        Self {
            tokens: found.tokens as usize,
            perplexity,
            bits_per_byte,
            teacher_perplexity: Some(teacher_perplexity),
            teacher_bits_per_byte: Some(teacher_bits_per_byte),
            kl: Some(found.mean_kl.value),
            agreement: Some(found.top1_agreement.value),
        }
    }
}
