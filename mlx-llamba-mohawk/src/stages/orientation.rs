//! Stage 1: the mixers learn the attention matrices.

use derive_setters::Setters;
use mlx_llamba::Config;
use mlx_llamba_teacher::{Llama, Wanted};
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{broadcast_to, expand_dims, sum_axes, swap_axes};
use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};

use super::distance::mean_norm;
use super::{borders, of_layer, student_layer};
use crate::{Batch, Error, Objective, Parameters, Result};

/// The quantity that stage 1 compares, given the teacher's attention `A` and the mixer's matrix `T`
/// of each head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// `A - T`, as in the paper.
    Matrix,
    /// `(A - T) diag |v_s|`: each column is weighted by the norm of the teacher's value. A trained
    /// model attends mostly to the first token, whose value is small: in SmolLM2-135M it has 61 % of
    /// `|A|^2`, and a value with a quarter of the median norm.
    #[default]
    Columns,
}

/// Matrix orientation: `mean_{b, h} |A_l - T_l(hidden_l)|_F` for each layer `l`, or of their
/// columns weighted by the norms of the teacher's values (see [`Compared`]).
///
/// `A_l` (b, h, l, l) is the teacher's attention after the softmax, `T_l` the student's mixer as a
/// matrix over time ([`Model::mixing_matrix`](mlx_llamba::Model::mixing_matrix)), given the
/// teacher's hidden state before the layer.
///
/// Source: MOHAWK (arXiv 2408.10189), section 3.1.
#[derive(Debug, Clone, Setters)]
pub struct Orientation {
    #[setters(skip)]
    teacher: Llama,
    #[setters(skip)]
    student: Config,
    /// Trains the norms before the mixers too, or not.
    norms: bool,
    /// Sets the weights of the columns.
    compared: Compared,
    /// The dtype of the student's products: float32, or bfloat16.
    products: Dtype,
    #[setters(skip)]
    values: Vec<Values>,
}

/// The source of a layer's values.
#[derive(Debug, Clone)]
struct Values {
    /// (d,)
    norm: Array,
    /// (g * k, d)
    weight: Array,
    /// (g * k,)
    bias: Option<Array>,
}

impl Orientation {
    /// Trains the parameters that the matrix depends on: in_proj, the convolution and D of each
    /// layer.
    ///
    /// # Errors
    /// MLX's own.
    pub fn new(teacher: Llama, student: Config) -> Result<Self> {
        let theirs = teacher.parameters()?;
        let values = (0..student.n_layer).map(|i| {
            let get = |name: &str| {
                let name = format!("model.layers.{i}.{name}");
                theirs.get(&name).cloned().ok_or_else(|| Error::unknown(&name))
            };
            Ok(Values {
                norm: get("input_layernorm.weight")?,
                weight: get("self_attn.v_proj.weight")?,
                bias: get("self_attn.v_proj.bias").ok(),
            })
        });
        let values = values.collect::<Result<_>>()?;
        let products = Dtype::Float32;
        Ok(Self { teacher, student, norms: false, compared: Compared::default(), products, values })
    }

    /// The norms of the teacher's values in layer `i`, for each query head: (b, h, 1, l).
    fn weights(&self, i: usize, hidden: &Array) -> Result<Array> {
        let Values { norm, weight, bias } = super::target(&self.values, i)?;
        let config = self.teacher.config();
        let (h, g) = (config.num_attention_heads as i32, config.num_key_value_heads as i32);
        let (b, l, k) = (hidden.dim(0), hidden.dim(1), config.head_dim as i32);
        let hidden = hidden.as_dtype(Dtype::Float32)?;
        let u = rms_norm(&hidden, Some(norm), config.rms_norm_eps as f32)?; // (b, l, d)
        let mut v = u.matmul(weight.t())?; // (b, l, g * k)
        if let Some(bias) = bias {
            v = v.add(bias)?;
        }
        let norms = sum_axes(v.reshape(&[b, l, g, k])?.square()?, &[-1], None)?.sqrt()?;
        let norms = expand_dims(swap_axes(&norms, 1, 2)?, 2)?; // (b, g, 1, l)
        Ok(broadcast_to(&norms, &[b, g, h / g, l])?.reshape(&[b, h, 1, l])?)
    }
}

/// The target of a layer.
#[derive(Debug, Clone)]
pub struct Oriented {
    /// The layer's input, (b, l, d).
    hidden: Array,
    /// (b, h, l, l)
    attention: Array,
    /// The weights of the columns, (b, h, 1, l), if there are any.
    weights: Option<Array>,
}

impl Objective for Orientation {
    type Targets = Vec<Oriented>;

    fn parts(&self) -> usize {
        self.student.n_layer
    }

    fn trains(&self, part: usize) -> Vec<String> {
        let mut parts = vec!["mixer.in_proj", "mixer.A_log_proj", "mixer.conv1d", "mixer.D"];
        parts.extend(self.norms.then_some("input_layernorm"));
        of_layer(&self.student, part, &parts)
    }

    fn precision(&self) -> Dtype {
        self.products
    }

    fn targets(&self, batch: &Batch) -> Result<Self::Targets> {
        let wanted = Wanted { hidden: true, attention: true, logits: false };
        let trace = self.teacher.trace(&batch.tokens, batch.starts.as_ref(), wanted)?;
        let layers = trace.hidden.into_iter().zip(trace.attention).enumerate();
        let layers = layers.map(|(i, (hidden, attention))| {
            let weights = match self.compared {
                Compared::Matrix => None,
                Compared::Columns => Some(self.weights(i, &hidden)?),
            };
            Ok(Oriented { hidden, attention, weights })
        });
        layers.collect()
    }

    fn loss(
        &self,
        part: usize,
        parameters: &Parameters,
        batch: &Batch,
        targets: &Self::Targets,
    ) -> Result<Array> {
        let Oriented { hidden, attention, weights } = super::target(targets, part)?;
        let student = student_layer(&self.student, parameters, part, self.products)?;
        // A teacher in 16 bits has such hidden states.
        let hidden = hidden.as_dtype(Dtype::Float32)?;
        let T = student.mixing_matrix(0, &hidden, borders(batch))?; // (b, h, l, l)
        Ok(match weights {
            None => mean_norm(attention, &T, &[-2, -1])?,
            Some(by) => mean_norm(&attention.multiply(by)?, &T.multiply(by)?, &[-2, -1])?,
        })
    }
}
