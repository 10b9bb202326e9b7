//! From hidden states to a loss over a vocabulary, a few positions at a time.

use mlx_llamba::Config;
use mlx_llamba::kernels::Backend;
use mlx_llamba_kernels::mlx::{current_device, with_gradient};
use mlx_llamba_kernels::{CrossEntropy, CrossEntropyOptions};
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, minimum, split_at_indices, sum, sum_axis};
use mlx_rs::{Array, DeviceType, Dtype, memory, stop_gradient};

use crate::{Parameters, Result};
use mlx_llamba_teacher::LlamaConfig;

/// The largest number of bytes of logits in float32 that are computed at once.
const PIECE: usize = 64 << 20;

/// The fraction of a GPU's memory that they may have, if that is more: `1 / OF_MEMORY`. A large GPU is
/// busy with large matrices only. For 16 windows of 1024 tokens and a vocabulary of 49,152, 64 MiB are 48
/// pieces, and a 256th of an H200's memory is 6; with the teacher's, the gradients and the piece before
/// they take a 40th.
const OF_MEMORY: usize = 256;

/// The last matrix of a model.
pub(super) struct Head {
    /// (rows, d); rows past the vocabulary are padding.
    pub(super) weight: Array,
    /// (rows,)
    pub(super) bias: Option<Array>,
    pub(super) vocab: usize,
    /// The dtype of the logits and of products.
    pub(super) products: Dtype,
}

/// Computes logits.
type Logits<'a> = &'a dyn Fn(&Array) -> Result<Array>;

/// The targets of the logits; the losses are mixed as `(1 - w) KL + w NLL`.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    /// A teacher's hidden states (b, l, d) and its last layer, from (m, d) to logits (m, vocab), if there
    /// is a teacher; else `w` is 1.
    pub(super) teacher: Option<(&'a Array, Logits<'a>)>,
    /// The true tokens (b, l).
    pub(super) next: &'a Array,
    /// The positions in (b l) that count, if not all do.
    pub(super) learned: Option<&'a [u32]>,
    /// `w`
    pub(super) next_weight: f32,
    /// The divisor of both logits.
    pub(super) temperature: f32,
}

/// Means over the positions.
#[derive(Clone)]
pub(super) struct Means {
    /// With the gradients.
    pub(super) mixed: Array,
    pub(super) cross_entropy: Array,
    pub(super) kl: Array,
    pub(super) next_token: Array,
}

impl Head {
    /// Returns the head of a Llamba.
    pub(super) fn of_llamba(
        config: &Config,
        parameters: &Parameters,
        products: Dtype,
    ) -> Result<Self> {
        let name = if config.tie_embeddings { "backbone.embedding" } else { "lm_head" };
        let bias = if config.lm_head_bias { parameters.get("lm_head.bias") } else { None };
        Ok(Self {
            bias: bias.cloned(),
            ..Self::new(name, parameters, config.vocab_size, products)?
        })
    }

    /// Returns the head of a Llama.
    pub(super) fn of_llama(
        config: &LlamaConfig,
        parameters: &Parameters,
        products: Dtype,
    ) -> Result<Self> {
        let name = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        Self::new(name, parameters, config.vocab_size, products)
    }

    fn new(name: &str, parameters: &Parameters, vocab: usize, products: Dtype) -> Result<Self> {
        let name = format!("{name}.weight");
        let missing = || Exception::custom(format!("no parameter {name}"));
        let weight = parameters.get(&name).ok_or_else(missing)?.clone();
        Ok(Self { weight, bias: None, vocab, products })
    }

    /// Compares the logits of `hidden` (b, l, d).
    ///
    /// Arrays of the vocabulary's size are computed for a few positions at a time, together with the
    /// gradients with respect to the hidden states and the matrix, G W and G^T h with
    /// G = d loss / d logits. They are part of the result as terms of value 0 with exactly these gradients.
    /// No array is thus kept for the backward pass, and nothing is computed twice.
    pub(super) fn compare(&self, hidden: &Array, goal: Goal<'_>) -> Result<Means> {
        self.compare_by(piece()? / (4 * self.vocab.max(1)), hidden, goal)
    }

    /// [`compare`](Self::compare), `rows` positions at a time.
    fn compare_by(&self, rows: usize, hidden: &Array, goal: Goal<'_>) -> Result<Means> {
        let (d, vocab) = (hidden.dim(-1), self.vocab as i32);
        let learned = goal.learned.map(|places| Array::from_slice(places, &[places.len() as i32]));
        let count = |array: Array| match &learned {
            Some(places) => array.take_axis(places, 0),
            None => Ok(array),
        };
        let traced_h = count(hidden.reshape(&[-1, d])?)?; // (N, d)
        if traced_h.dim(0) == 0 {
            // Nothing to learn, with gradients of 0.
            let zero = sum(hidden, None)?.multiply(Array::from_f32(0.0))?;
            let zero = zero.as_dtype(Dtype::Float32)?;
            let [cross_entropy, kl, next_token] = [&zero; 3].map(Clone::clone);
            return Ok(Means { mixed: zero, cross_entropy, kl, next_token });
        }
        let traced_W = first(&self.weight, vocab)?; // (vocab, d)
        let traced_bias = self.bias.as_ref().map(|bias| first(bias, vocab)).transpose()?;
        let h = stop_gradient(&traced_h)?;
        let W = stop_gradient(&traced_W)?;
        let bias = traced_bias.as_ref().map(stop_gradient).transpose()?;
        // MLX does not check indices; an id out of range must not read foreign memory.
        let last = Array::from_slice(&[self.vocab.saturating_sub(1) as u32], &[]);
        let next = count(goal.next.as_dtype(Dtype::Uint32)?.reshape(&[-1])?)?; // (N,)
        let next = minimum(next, last)?;
        let teacher = match goal.teacher {
            Some((hidden, logits)) => {
                let flat = stop_gradient(hidden)?.reshape(&[-1, hidden.dim(-1)])?;
                Some((count(flat)?, logits)) // (N, d)
            }
            None => None,
        };
        let rounded = |array: &Array| array.as_dtype(self.products);
        let float = |array: Array| array.as_dtype(Dtype::Float32);
        let (round_h, round_W) = (rounded(&h)?, rounded(&W)?);
        let bias = bias.as_ref().map(rounded).transpose()?;

        let backend = Backend::with_gradients()?;
        let how = CrossEntropyOptions {
            temperature: goal.temperature,
            teacher_weight: (1.0 - goal.next_weight) * goal.temperature,
            next_weight: goal.next_weight,
        };
        let n = h.dim(0);
        // As few pieces as possible, of equal sizes.
        let all = n.max(1) as usize;
        let rows = all.div_ceil(all.div_ceil(rows.max(1))) as i32;
        let mut parts: Option<Piece> = None;
        let mut by_h = Vec::new();
        for from in (0..n).step_by(rows as usize) {
            let cut = |array: &Array| -> Result<Array> {
                let parts = split_at_indices(array, &[from, n.min(from + rows)], 0)?;
                let missing = || Exception::custom("a piece without rows");
                Ok(parts.into_iter().nth(1).ok_or_else(missing)?)
            };
            let h = cut(&round_h)?; // (m, d)
            let mut logits = h.matmul(round_W.t())?; // (m, vocab)
            if let Some(bias) = &bias {
                logits = logits.add(bias)?;
            }
            let teacher = match &teacher {
                Some((hidden, logits)) => Some(logits(&cut(hidden)?)?), // (m, vocab)
                None => None,
            };
            // G, except for the logits of the true tokens.
            let CrossEntropy { gradient: G, cross_entropy, kl, log_sum } = backend
                .cross_entropy(&logits, teacher.as_ref(), how)
                .map_err(mlx_llamba::Error::from)?;
            let sums = [cross_entropy, kl, log_sum];
            by_h.push(float(G.matmul(&round_W)?)?); // (m, d)
            let piece = Piece {
                sums,
                by_W: float(G.t().matmul(&h)?)?,
                by_bias: if bias.is_some() { Some(sum_axis(float(G)?, 0, None)?) } else { None },
            };
            parts = Some(match parts {
                None => piece,
                Some(parts) => parts.add(&piece)?,
            });
        }
        let Piece { sums, by_W, by_bias } =
            parts.ok_or_else(|| Exception::custom("no positions to compare"))?;

        // The logits of the true tokens have their own gradients.
        let mut right = sum(traced_h.multiply(self.weight.try_index(&next)?)?, None)?;
        if let Some(bias) = &self.bias {
            right = right.add(sum(bias.try_index(&next)?, None)?)?;
        }
        let mean =
            |total: &Array| -> Result<Array> { Ok(total.divide(Array::from_f32(n as f32))?) };
        let w = Array::from_f32(goal.next_weight);
        let [cross_entropy, kl, log_sum] = sums;
        let scale = Array::from_f32((1.0 - goal.next_weight) * goal.temperature.powi(2));
        let mut mixed = kl.multiply(scale)?;
        if goal.next_weight != 0.0 {
            mixed = mixed.add(log_sum.subtract(&right)?.multiply(w)?)?;
        }
        let by_h = concatenate(&by_h, 0)?; // (N, d)
        mixed = mixed.add(with_slope(&traced_h, by_h)?)?;
        mixed = mixed.add(with_slope(&traced_W, by_W)?)?;
        if let (Some(traced), Some(slope)) = (&traced_bias, by_bias) {
            mixed = mixed.add(with_slope(traced, slope)?)?;
        }
        Ok(Means {
            mixed: mean(&mixed)?,
            cross_entropy: mean(&cross_entropy)?,
            kl: mean(&kl)?,
            next_token: mean(&log_sum.subtract(right)?)?,
        })
    }
}

/// Returns the number of bytes of logits to compute at once on this machine.
fn piece() -> Result<usize> {
    Ok(match current_device()? {
        DeviceType::Gpu => PIECE.max(memory::memory_limit()? / OF_MEMORY),
        DeviceType::Cpu => PIECE,
    })
}

/// Sums over the positions of pieces.
struct Piece {
    /// Cross entropy with the teacher, KL, and the logarithm of the sum of exponentials.
    sums: [Array; 3],
    /// (vocab, d)
    by_W: Array,
    /// (vocab,)
    by_bias: Option<Array>,
}

impl Piece {
    fn add(&self, other: &Self) -> Result<Self> {
        let [a, b, c] = &self.sums;
        let [d, e, f] = &other.sums;
        Ok(Self {
            sums: [a.add(d)?, b.add(e)?, c.add(f)?],
            by_W: self.by_W.add(&other.by_W)?,
            by_bias: match (&self.by_bias, &other.by_bias) {
                (Some(a), Some(b)) => Some(a.add(b)?),
                _ => None,
            },
        })
    }
}

/// Returns 0 with the gradient `slope` with respect to `traced`.
fn with_slope(traced: &Array, slope: Array) -> Result<Array> {
    let dtype = traced.dtype();
    let zero = with_gradient(
        |_: &[Array]| Ok::<_, Exception>(vec![Array::from_f32(0.0)]),
        move |_: &[Array], d: &[Array], _: &[Array]| {
            Ok(vec![slope.multiply(&d[0])?.as_dtype(dtype)?])
        },
        std::slice::from_ref(traced),
    )?;
    Ok(zero.into_iter().next().ok_or_else(|| Exception::custom("a sum without a value"))?)
}

/// Returns the first `count` elements of axis 0.
fn first(array: &Array, count: i32) -> Result<Array> {
    if array.dim(0) == count {
        return Ok(array.clone());
    }
    Ok(split_at_indices(array, &[count], 0)?.swap_remove(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_llamba::mlx::floats;
    use mlx_rs::random::normal;
    use mlx_rs::transforms::value_and_grad_with_argnums;

    use super::*;

    /// Value and gradients by hidden states (2, 5, 3), matrix (8, 3) and bias (8,), with 7 words.
    fn run(rows: usize, with_bias: bool, learned: Option<&[u32]>) -> Vec<Vec<f32>> {
        let key = |seed| mlx_rs::random::key(seed).unwrap();
        let random = |shape: &[i32], seed| normal::<f32>(shape, None, None, &key(seed)).unwrap();
        let teacher = random(&[2, 5, 7], 1);
        let next = Array::from_slice(&[0u32, 6, 2, 3, 1, 1, 5, 4, 6, 0], &[2, 5]);
        let own = |logits: &Array| Ok(logits.clone());
        let goal = Goal {
            teacher: Some((&teacher, &own)),
            next: &next,
            learned,
            next_weight: 0.4,
            temperature: 1.5,
        };
        let loss = |traced: &[Array]| -> mlx_rs::error::Result<Vec<Array>> {
            let bias = with_bias.then(|| traced[2].clone());
            let products = Dtype::Float32;
            let head = Head { weight: traced[1].clone(), bias, vocab: 7, products };
            Ok(vec![head.compare_by(rows, &traced[0], goal).unwrap().mixed])
        };
        let inputs = [random(&[2, 5, 3], 2), random(&[8, 3], 3), random(&[8], 4)];
        let (value, gradients) =
            value_and_grad_with_argnums(loss, &[0, 1, 2][..])(&inputs).unwrap();
        value.iter().chain(&gradients).map(|array| floats(array).unwrap()).collect()
    }

    #[test]
    fn pieces_do_not_change_the_result() {
        for with_bias in [false, true] {
            let whole = run(10, with_bias, None);
            for rows in [1, 3, 9, 100] {
                for (found, expected) in run(rows, with_bias, None).iter().zip(&whole) {
                    let near = |(f, e): (&f32, &f32)| (f - e).abs() < 2e-6;
                    assert!(found.iter().zip(expected).all(near), "{rows} {found:?} {expected:?}");
                }
            }
            // Padding has no gradient, the rest has.
            assert!(whole[2][..21].iter().all(|g| *g != 0.0));
            assert!(whole[2][21..].iter().all(|g| *g == 0.0));
            assert_eq!(whole[3].iter().filter(|g| **g != 0.0).count(), 7 * usize::from(with_bias));
        }
    }

    /// Positions that do not count give nothing: the sum over two halves is that over all.
    #[test]
    fn only_learned_positions_count() {
        let (whole, odd) = (run(3, true, None), run(3, true, Some(&[1, 3, 5, 7, 9])));
        let even = run(3, true, Some(&[0, 2, 4, 6, 8]));
        for ((whole, odd), even) in whole.iter().zip(&odd).zip(&even) {
            for ((whole, odd), even) in whole.iter().zip(odd).zip(even) {
                assert!((whole - (odd + even) / 2.0).abs() < 2e-6, "{whole} {odd} {even}");
            }
        }
        // (b, l, d): the states of even positions get no gradient from odd ones.
        for (i, gradient) in odd[1].chunks(3).enumerate() {
            assert_eq!(gradient.iter().any(|g| *g != 0.0), i % 2 == 1, "{i}");
        }
        assert!(run(3, true, Some(&[])).iter().flatten().all(|value| *value == 0.0));
    }
}
