//! Attention of one layer.

use mlx_llamba::kernels::Backend;
use mlx_llamba::linear::Linear;
use mlx_llamba_kernels::RingAttention;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::swap_axes;
use mlx_rs::{Array, Dtype, fast};

use crate::cache::{KvCache, Pair};
use crate::config::LlamaConfig;
use crate::mask::Window;

/// `o_proj(softmax(q k^T / sqrt(k)) v)`, with grouped key and value heads.
///
/// Source: arXiv 1706.03762; grouped heads: arXiv 2305.13245.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    /// Weights (k,) of the norms of queries and keys, head by head.
    pub(crate) qk_norm: Option<(Array, Array)>,
}

/// The inputs that all layers of a forward pass share.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) backend: Backend,
    /// That of the activations.
    pub(crate) dtype: Dtype,
    /// Rotary wavelengths, (k / 2,).
    pub(crate) wavelengths: &'a Array,
    /// See [`crate::mask::visible`]; not of a ring.
    pub(crate) mask: Option<Array>,
    /// The limit of what tokens see, which is part of the mask; a ring has no mask.
    pub(crate) window: Option<Window>,
    /// The mask as summands of the scores, if the whole attention is one kernel, which gives no weights.
    pub(crate) summands: Option<Array>,
    /// The cache of the text before, if the pass keeps one.
    pub(crate) cache: Option<&'a KvCache>,
    /// The token's position in each row's text (b,), if the cache is a ring.
    pub(crate) positions: Option<Array>,
}

/// The result of a layer's attention.
pub(crate) struct Attended {
    /// (b, l, d)
    pub(crate) y: Array,
    /// (b, h, l, t), the weights of each query, which sum to 1; not of a ring, nor of a pass that wants none.
    pub(crate) weights: Option<Array>,
    /// The layer's new keys and values, if the pass keeps a cache.
    pub(crate) pair: Option<Pair>,
}

impl Attention {
    /// (b, l, d) -> (b, l, d)
    pub(crate) fn forward(
        &self,
        u: &Array,
        layer: usize,
        pass: &Pass<'_>,
    ) -> mlx_llamba::Result<Attended> {
        let (h, g) = (pass.config.num_attention_heads, pass.config.num_key_value_heads);
        let (h, g, k) = (h as i32, g as i32, pass.config.head_dim as i32);
        let (b, l) = (u.dim(0), u.dim(1));
        let read = pass.cache.map_or(0, KvCache::read);
        let heads = |x: Array, count: i32| x.reshape(&[b, l, count, k]);
        let first = |x: &Array| swap_axes(x, 1, 2); // (b, l, heads, k) -> (b, heads, l, k)
        let epsilon = pass.config.rms_norm_eps as f32;
        let norm = |x: Array, weight: Option<&Array>| match weight {
            None => Ok(x),
            Some(weight) => pass.backend.rms_norm(&x.reshape(&[b, l, -1, k])?, weight, epsilon),
        };
        let (q_norm, k_norm) =
            (self.qk_norm.as_ref()).map_or((None, None), |(q, k)| (Some(q), Some(k)));
        let turned =
            if pass.config.no_rope.contains(&layer) { 0 } else { pass.config.rotary_dim as i32 };
        let wavelengths = pass.wavelengths;
        let turn = |x: Array| -> mlx_rs::error::Result<Array> {
            match &pass.positions {
                _ if turned == 0 => first(&x),
                None if read == 0 => first(&pass.backend.rope(&x, turned, wavelengths)?),
                None => fast::rope(&first(&x)?, turned, false, None, 1.0, read as i32, wavelengths),
                Some(at) => {
                    fast::rope_dynamic(&first(&x)?, turned, false, None, 1.0, at, wavelengths)
                }
            }
        };
        // Products of a training may give narrower results.
        let project = |linear: &Linear| -> mlx_llamba::Result<Array> {
            Ok(linear.forward(u)?.as_dtype(pass.dtype)?)
        };
        let mut queries = turn(heads(norm(project(&self.q_proj)?, q_norm)?, h)?)?; // (b, h, l, k)
        let keys = turn(heads(norm(project(&self.k_proj)?, k_norm)?, g)?)?; // (b, g, l, k)
        let values = first(&heads(project(&self.v_proj)?, g)?)?; // (b, g, l, k)
        let (pair, keys, values) = match pass.cache {
            None => (None, keys, values),
            Some(cache) => {
                let (pair, keys, values) = Pair::append(cache, layer, &keys, &values)?;
                (Some(pair), keys, values) // (b, g, t, k)
            }
        };

        let factor = pass.config.rope.attention_factor().powi(2) as f32;
        let mut scale = (k as f32).powf(-0.5);
        if turned == k {
            scale *= factor;
        } else if turned > 0 && factor != 1.0 {
            // The other values of a head keep their length.
            let factors: Vec<f32> = (0..k).map(|i| if i < turned { factor } else { 1.0 }).collect();
            let factors = Array::from_slice(&factors, &[k]).as_dtype(queries.dtype())?;
            queries = queries.multiply(factors)?;
        }
        let (mixed, weights) = match (&pass.positions, &pass.summands) {
            (Some(positions), _) => {
                let ring = RingAttention {
                    queries: &queries.reshape(&[b, h, k])?,
                    keys: &keys,
                    values: &values,
                    positions,
                    read,
                    scale,
                    window: pass.window.map(|window| (window.size, window.sinks)),
                };
                let mixed = pass.backend.ring_attention(&ring).map_err(mlx_llamba::Error::from)?;
                (mixed.reshape(&[b, 1, h * k])?, None)
            }
            // The summands are made once for all layers: MLX makes them of a mask again in each, for every head.
            (None, Some(summands)) => {
                let mask = ScaledDotProductAttentionMask::Array(summands);
                let mixed =
                    scaled_dot_product_attention(&queries, &keys, &values, scale, mask, None)?;
                (swap_axes(&mixed, 1, 2)?.reshape(&[b, l, h * k])?, None)
            }
            (None, None) => {
                // Query heads of a group are adjacent: the rows of one matrix multiplication.
                let t = keys.dim(2);
                let queries =
                    queries.multiply(Array::from_f32(scale).as_dtype(queries.dtype())?)?;
                let queries = queries.reshape(&[b, g, h / g * l, k])?; // (b, g, h/g * l, k)
                let scores = queries.matmul(swap_axes(&keys, -1, -2)?)?; // (b, g, h/g * l, t)
                let scores = scores.reshape(&[b, h, l, t])?; // (b, h, l, t)
                let weights = pass.backend.softmax(&scores, pass.mask.as_ref())?; // (b, h, l, t)
                let mixed = weights.reshape(&[b, g, h / g * l, t])?.matmul(&values)?;
                let mixed = swap_axes(&mixed.reshape(&[b, h, l, k])?, 1, 2)?; // (b, l, h, k)
                (mixed.reshape(&[b, l, h * k])?, Some(weights))
            }
        };
        let y = self.o_proj.forward(&mixed)?; // (b, l, d)
        Ok(Attended { y, weights, pair })
    }
}

/// Attention weights as callers get them, in float32.
pub(crate) fn handed_out(weights: &Array) -> mlx_rs::error::Result<Array> {
    weights.as_dtype(Dtype::Float32)
}
