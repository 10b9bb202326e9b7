//! The forward pass and its outputs.

use mlx_rs::ops::minimum;
use mlx_rs::{Array, Dtype};

use crate::attention::{Pass, handed_out};
use crate::cache::KvCache;
use crate::error::Result;
use crate::llama::{Llama, Mlp};
use crate::mask::{summands, visible};

/// The outputs that [`Llama::trace`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The residual stream before and after every block.
    pub hidden: bool,
    /// The attention matrices.
    pub attention: bool,
    /// The logits.
    pub logits: bool,
}

/// The outputs of a forward pass.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// `n_layer + 1` of (b, l, d) in the dtype of the activations: `hidden[i]` is what block `i`
    /// gets; the last one is what the final norm gets. Empty if not wanted.
    pub hidden: Vec<Array>,
    /// A layer's (b, h, l, l) float32 after the softmax: rows sum to 1, and are 0 at tokens that
    /// the row's token does not see. Empty if not wanted.
    pub attention: Vec<Array>,
    /// (b, l, vocab) float32, of the token after each position.
    pub logits: Option<Array>,
}

impl Llama {
    /// Reads texts from their beginning and gives what is wanted of it. Lazy.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | tokens | (b, l), l >= 1 | integer |
    /// | starts | (b, l), true at the first token of a document: from there nothing earlier is seen | bool |
    ///
    /// Positions go on over the start of a document. Ids past the vocabulary read its last row.
    ///
    /// # Errors
    /// Those of MLX for shapes that do not fit.
    pub fn trace(&self, tokens: &Array, starts: Option<&Array>, wanted: Wanted) -> Result<Trace> {
        let mut trace = Trace::default();
        let mask = visible(tokens.dim(1) as usize, 0, starts, self.window)?;
        let (u, _) = self.read(tokens, mask, None, wanted, &mut trace)?;
        if wanted.logits {
            trace.logits = Some(self.logits(&u)?);
        }
        Ok(trace)
    }

    /// The hidden states after the final norm of tokens (b, l) that follow what `cache` has read:
    /// (b, l, d), and the cache after them. Lazy. A [`ring`](KvCache::ring) takes one token of each
    /// row.
    ///
    /// # Errors
    /// Those of MLX for shapes that do not fit; [`mlx_llamba::Error::TooLong`] past the context
    /// of a model whose positions are scaled as [`Dynamic`](crate::Rope::Dynamic), or the first one of
    /// [`LongRope`](crate::Rope::LongRope).
    pub fn hidden(&self, tokens: &Array, cache: &KvCache) -> mlx_llamba::Result<(Array, KvCache)> {
        let l = tokens.dim(1) as usize;
        if let Some(longest) = self.config.rope.longest_cache()
            && cache.longest(l) > longest
        {
            let reason = "this model's positions are scaled as \"dynamic\" or \"longrope\", which turns \
                          all tokens anew past that length; give it a shorter text";
            return Err(mlx_llamba::Error::TooLong { longest, reason: reason.into() });
        }
        if cache.is_ring() && l != 1 {
            let reason = format!("a ring of texts reads a token of each at a time, not {l}");
            return Err(mlx_rs::error::Exception::custom(reason).into());
        }
        let mask = match cache.is_ring() {
            true => None,
            false => visible(l, cache.read(), None, self.window)?,
        };
        self.read(tokens, mask, Some(cache), Wanted::default(), &mut Trace::default())
    }

    /// The hidden states after the final norm of texts from their beginning: (b, l, d). Arguments
    /// as for [`trace`](Self::trace). Lazy.
    ///
    /// # Errors
    /// As [`trace`](Self::trace).
    pub fn documents(&self, tokens: &Array, starts: Option<&Array>) -> Result<Array> {
        let mask = visible(tokens.dim(1) as usize, 0, starts, self.window)?;
        let (u, _) = self.read(tokens, mask, None, Wanted::default(), &mut Trace::default())?;
        Ok(u)
    }

    /// Hidden states after the final norm (.., d) to logits (.., vocab), float32.
    ///
    /// # Errors
    /// Those of MLX for another last axis.
    pub fn logits(&self, hidden: &Array) -> mlx_llamba::Result<Array> {
        Ok(self.head(hidden)?.as_dtype(Dtype::Float32)?)
    }

    /// [`logits`](Self::logits) in the dtype of the activations.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn head(&self, hidden: &Array) -> mlx_llamba::Result<Array> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).matmul(hidden)
    }

    /// The one forward pass: (b, l) to (b, l, d) after the final norm.
    fn read(
        &self,
        tokens: &Array,
        mask: Option<Array>,
        cache: Option<&KvCache>,
        wanted: Wanted,
        trace: &mut Trace,
    ) -> mlx_llamba::Result<(Array, KvCache)> {
        // MLX does not check indices; an id out of range must not read foreign memory.
        let last = Array::from_slice(&[self.config.vocab_size as u32 - 1], &[]);
        let tokens = minimum(tokens.as_dtype(Dtype::Uint32)?, last)?;
        let backend = self.compute.backend;
        let epsilon = self.config.rms_norm_eps as f32;
        let l = tokens.dim(1) as usize;
        let wavelengths = &self.wavelengths_of(cache.map_or(l, |cache| cache.longest(l)));
        let positions = cache.and_then(KvCache::positions);
        let (config, window) = (&self.config, self.window);
        let dtype = self.compute.dtype;
        let fused = mask.as_ref().filter(|_| !wanted.attention && backend.fuses_attention(dtype));
        let summands = fused.map(|mask| summands(mask, dtype)).transpose()?;
        let pass =
            Pass { config, backend, dtype, wavelengths, mask, window, summands, cache, positions };
        let mut pairs = Vec::with_capacity(self.layers.len());
        let mut x = self.embed_tokens.rows(&tokens)?; // (b, l, d)
        let mut u = backend.rms_norm(&x, self.norm_before(0), epsilon)?;
        for (i, layer) in self.layers.iter().enumerate() {
            if wanted.hidden {
                trace.hidden.push(x.clone());
            }
            let attended = layer.self_attn.forward(&u, i, &pass)?;
            if let Some(weights) = attended.weights.as_ref().filter(|_| wanted.attention) {
                trace.attention.push(handed_out(weights)?);
            }
            pairs.extend(attended.pair);
            (x, u) =
                backend.add_rms_norm(&x, &attended.y, &layer.post_attention_layernorm, epsilon)?;
            let y = layer.mlp.forward(&u)?;
            (x, u) = backend.add_rms_norm(&x, &y, self.norm_before(i + 1), epsilon)?;
        }
        if wanted.hidden {
            trace.hidden.push(x);
        }
        Ok((u, cache.map(|cache| cache.after(l, pairs)).unwrap_or_default()))
    }

    /// The rotary wavelengths in a text of `length` tokens.
    fn wavelengths_of(&self, length: usize) -> Array {
        let config = &self.config;
        match config.rope.longest_cache() {
            Some(longest) if longest < length => {
                config.rope.array(config.rotary_dim, config.rope_theta, length)
            }
            _ => self.wavelengths.clone(),
        }
    }

    /// The norm before block `i`; after the last block, the final norm.
    fn norm_before(&self, i: usize) -> &Array {
        self.layers.get(i).map_or(&self.norm, |layer| &layer.input_layernorm)
    }
}

impl Mlp {
    /// (b, l, d) -> (b, l, d)
    fn forward(&self, x: &Array) -> mlx_llamba::Result<Array> {
        let gate_up = self.gate_up.forward(x)?; // (b, l, 2 * intermediate_size)
        self.down_proj.forward(&self.backend.swiglu(&gate_up)?)
    }
}
