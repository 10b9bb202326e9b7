//! The student's parameters before training.

use derive_setters::Setters;
use mlx_llamba::Config;
use mlx_rs::ops::{broadcast_to, concatenate};
use mlx_rs::{Array, random};

use super::attention::Heads;
use super::parameters::{get, rows};
use crate::{Parameters, Result};
use mlx_llamba_teacher::LlamaConfig;

/// The solution of silu(x) = 1: an open gate.
const OPEN: f32 = 1.278_464_5;

/// Initial values of the parts that a Llama does not have.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
#[setters(strip_option)]
pub struct Init {
    /// Initialize C, B, x and out_proj from Q, K, V and O, instead of randomly.
    pub copy_attention: bool,
    /// The factor of the copied C, and of the copied B. By default `head_dim^(-1/4)` (times the
    /// attention factor of YaRN), so that `C . B` equals attention's `Q . K / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// The initial value of D. A copied attention needs no skip connection.
    pub skip: f32,
    /// Equal seeds give equal parameters.
    pub seed: u64,
}

impl Default for Init {
    fn default() -> Self {
        Self { copy_attention: false, scale: None, skip: 1.0, seed: 0 }
    }
}

/// Returns the parameters of a student with the [`config`](super::config()) `student`. Embedding,
/// MLPs, norms and head are the teacher's. The convolution is the identity and the gate is open. The
/// rest is random (uniform, up to `1/sqrt(columns)`, out_proj divided by `sqrt(n_layer)`) or copied
/// from attention. All float32; lazy.
///
/// Rows that pad the vocabulary are zero. The norms of a Llamba's blocks have an epsilon of 1e-5,
/// whatever the teacher's is.
///
/// Source: MOHAWK (arXiv 2408.10189), section 4; the published training code of Llamba; PyTorch's
/// defaults for everything else.
///
/// # Errors
/// [`Error::NoStudent`](crate::Error::NoStudent) if attention is to be copied and `d_state` is not
/// `head_dim`; [`mlx_llamba::Error::Tensors`] names a parameter that the teacher lacks.
pub fn init(
    teacher: &LlamaConfig,
    parameters: &Parameters,
    student: &Config,
    options: &Init,
) -> Result<Parameters> {
    let dims = student.dims();
    let attention = match options.copy_attention {
        true => Some(Heads::new(teacher, student, options.scale)?),
        false => None,
    };
    let own = |name: &str| get(parameters, name);
    let mut draws = Draws { key: random::key(options.seed)? };
    let mut made = Parameters::new();
    for (name, shape) in student.tensors() {
        let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
        let array = if let Some(theirs) = teachers_name(&name) {
            padded(own(&theirs)?, shape[0])?
        } else {
            let (prefix, part) = name.split_once(".mixer.").unwrap_or(("", &name));
            let layer = prefix.replace("backbone.", "model.");
            let (d_inner, h) = (dims.d_inner() as i32, dims.h as i32);
            match part {
                "in_proj.weight" => {
                    let drawn = draws.uniform(&shape, 1.0)?; // (in_proj_dim, d)
                    let rows = |from: i32, count: i32| rows(&drawn, from, count);
                    let conv_dim = dims.conv_dim() as i32;
                    let xBC = match &attention {
                        Some(heads) => heads.xBC(parameters, &layer, "weight")?,
                        None => rows(0, conv_dim)?,
                    };
                    let z = Array::zeros::<f32>(&[d_inner, shape[1]])?;
                    concatenate(&[&xBC, &z, &rows(conv_dim + d_inner, h)?], 0)?
                }
                "in_proj.bias" => {
                    let xBC = match &attention {
                        Some(heads) if teacher.qkv_bias => heads.xBC(parameters, &layer, "bias")?,
                        _ => Array::zeros::<f32>(&[dims.conv_dim() as i32])?,
                    };
                    let A_log = Array::zeros::<f32>(&[h])?;
                    concatenate(&[&xBC, &full(&[d_inner], OPEN)?, &A_log], 0)?
                }
                "out_proj.weight" => {
                    // Drawn in any case, so that later draws do not depend on options.
                    let drawn = draws.uniform(&shape, (student.n_layer as f32).sqrt().recip())?;
                    match &attention {
                        Some(_) => own(&format!("{layer}.self_attn.o_proj.weight"))?.clone(),
                        None => drawn,
                    }
                }
                "out_proj.bias" if attention.is_some() && teacher.out_bias => {
                    own(&format!("{layer}.self_attn.o_proj.bias"))?.clone()
                }
                "conv1d.weight" => {
                    let tap = Array::from_iter(
                        (0..shape[1]).map(|i| f32::from(i + 1 == shape[1])),
                        &[1, shape[1]],
                    );
                    broadcast_to(&tap, &shape)?
                }
                "z_bias" => full(&shape, OPEN)?,
                "D" => full(&shape, options.skip)?,
                // conv1d.bias, out_proj.bias
                _ => Array::zeros::<f32>(&shape)?,
            }
        };
        // A view would keep its whole array alive.
        made.insert(name, array.contiguous()?);
    }
    Ok(made)
}

/// Returns the Llama's name for a tensor that both models have.
fn teachers_name(name: &str) -> Option<String> {
    let whole = [
        ("backbone.embedding.weight", "model.embed_tokens.weight"),
        ("backbone.final_layernorm.weight", "model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ];
    if let Some((_, theirs)) = whole.iter().find(|(ours, _)| *ours == name) {
        return Some((*theirs).to_owned());
    }
    let shared = name.contains(".mlp.") || name.ends_with("_layernorm.weight");
    shared.then(|| name.replacen("backbone.", "model.", 1))
}

/// Pads an array with zeros to `rows` rows.
fn padded(array: &Array, rows: i32) -> Result<Array> {
    let missing = rows - array.dim(0);
    if missing <= 0 {
        return Ok(array.clone());
    }
    let zeros = Array::zeros::<f32>(&[&[missing], &array.shape()[1..]].concat())?;
    Ok(concatenate(&[array, &zeros], 0)?)
}

fn full(shape: &[i32], value: f32) -> Result<Array> {
    Ok(broadcast_to(Array::from_f32(value), shape)?)
}

/// A source of random matrices.
struct Draws {
    key: Array,
}

impl Draws {
    /// Returns a matrix uniform in `+-factor / sqrt(columns)`.
    fn uniform(&mut self, shape: &[i32], factor: f32) -> Result<Array> {
        let (this, rest) = random::split(&self.key, 2)?;
        self.key = rest;
        let columns = shape.last().copied().unwrap_or(1) as f32;
        let bound = factor / columns.sqrt();
        Ok(random::uniform::<_, f32>(-bound, bound, shape, &this)?)
    }
}
