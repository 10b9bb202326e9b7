//! Converts attention's projections to the mixer's: C, B and x begin as Q, K and V.

use mlx_llamba::Config;
use mlx_rs::Array;
use mlx_rs::ops::{broadcast_to, concatenate, expand_dims};

use super::parameters::get;
use crate::{Error, Parameters, Result};
use mlx_llamba_teacher::LlamaConfig;

/// The teacher's heads.
pub(super) struct Heads {
    /// Query heads.
    h: i32,
    /// Key/value heads.
    g: i32,
    head_dim: i32,
    /// The factor of C, and of B.
    scale: f32,
}

impl Heads {
    pub(super) fn new(teacher: &LlamaConfig, student: &Config, scale: Option<f32>) -> Result<Self> {
        let (dims, head_dim) = (student.dims(), teacher.head_dim);
        let expected =
            [teacher.num_attention_heads, teacher.num_attention_heads, head_dim, head_dim];
        if [dims.h, dims.g, dims.p, dims.n] != expected {
            return Err(Error::NoStudent {
                field: "(h, g, p, n) of a copy of attention",
                found: format!("{:?}", [dims.h, dims.g, dims.p, dims.n]),
                expected: format!("the teacher's {expected:?}, or student.init=random"),
            });
        }
        let factor = teacher.rope.attention_factor() as f32;
        Ok(Self {
            h: teacher.num_attention_heads as i32,
            g: teacher.num_key_value_heads as i32,
            head_dim: head_dim as i32,
            scale: scale.unwrap_or(factor * (head_dim as f32).powf(-0.25)),
        })
    }

    /// Returns the rows of in_proj (or of its bias) that give x, B and C, in this order.
    ///
    /// `layer` is the teacher's prefix of the layer, `part` is `weight` or `bias`.
    pub(super) fn xBC(&self, parameters: &Parameters, layer: &str, part: &str) -> Result<Array> {
        let own = |name: &str| get(parameters, &format!("{layer}.self_attn.{name}.{part}"));
        let scale = Array::from_f32(self.scale);
        let x = self.repeated(own("v_proj")?)?;
        let B = self.repeated(own("k_proj")?)?.multiply(&scale)?;
        let C = own("q_proj")?.multiply(&scale)?;
        Ok(concatenate(&[x, B, C], 0)?)
    }

    /// Repeats the rows of each of g heads for the query heads that use it: query head i uses head
    /// i / (h / g).
    fn repeated(&self, rows: &Array) -> Result<Array> {
        let Self { h, g, head_dim, .. } = *self;
        let columns = &rows.shape()[1..];
        let heads = rows.reshape(&[&[g, head_dim], columns].concat())?; // (g, k, ..)
        let shape = [&[g, h / g, head_dim], columns].concat();
        let all = broadcast_to(&expand_dims(&heads, 1)?, &shape)?; // (g, h/g, k, ..)
        Ok(all.reshape(&[&[h * head_dim], columns].concat())?)
    }
}
