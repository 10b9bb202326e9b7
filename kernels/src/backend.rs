//! The operations of a model on a chosen implementation.

use std::fmt;
use std::hash::{Hash, Hasher};

use mlx_rs::{Array, Dtype};

use crate::adamw::{AdamWResult, AdamWStep};
use crate::attention::RingAttention;
use crate::blocks::BlocksArgs;
use crate::cpu::{CPU, CPU_INT8};
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::cuda::CUDA;
use crate::dims::{ShapeError, expect};
use crate::draw::Draw;
use crate::fallback::{fallbacks, log_fallback};
use crate::kernel::{Kernel, Kernels};
use crate::metal::METAL;
use crate::mixer::{Mixed, MixerArgs, MixerError, MixerInput, MixerState, MixerWeights, check};
use crate::operations::{Activations, Operations, Plain};
use crate::{Activation, Dims, QuantizationError, Weight, plain};

/// Back ends with kernels of their own. The first that is made for the current device is chosen.
pub(crate) const KERNELS: [Backend; 3] = [Backend::CPU, Backend::METAL, Backend::CUDA];

/// An implementation of the operations of a model; a small value.
///
/// Every operation exists in plain MLX operations: they run where no kernel of ours does, have
/// gradients, and are what kernels are tested against. A kernel decides before it is launched
/// whether it takes a case; where it does not, plain operations run and the log says why.
///
/// A kernel that is [switched off](Self::without) is replaced by plain operations silently.
#[derive(Clone, Copy)]
pub struct Backend {
    pub(crate) operations: &'static dyn Operations,
    off: Kernels,
    products: Option<Dtype>,
}

impl Backend {
    /// Plain MLX operations: any device, any dtype, gradients.
    pub const PLAIN: Self = Self::of(&Plain);

    /// Compiled kernels for CPUs; activations in float32.
    pub const CPU: Self = Self::of(&CPU);

    /// The same with [`Activations::Int8`].
    pub const CPU_INT8: Self = Self::of(&CPU_INT8);

    /// Metal kernels.
    pub const METAL: Self = Self::of(&METAL);

    /// CUDA kernels.
    pub const CUDA: Self = Self::of(&CUDA);

    /// Returns the back end with all its kernels.
    pub(crate) const fn of(operations: &'static dyn Operations) -> Self {
        Self { operations, off: Kernels::NONE, products: None }
    }

    /// Returns the same back end with plain MLX operations in place of these kernels.
    #[must_use]
    pub fn without(self, off: Kernels) -> Self {
        Self { off, ..self }
    }

    /// Returns the same back end, which rounds both operands of products with dense matrices, their
    /// results and the gradients of all three to `dtype`, such as bfloat16 for activations and weights in
    /// float32. GPUs multiply 16 bits twice as fast as the 19 of TF32, or faster.
    #[must_use]
    pub fn with_products(self, dtype: Dtype) -> Self {
        Self { products: Some(dtype).filter(|&dtype| dtype != Dtype::Float32), ..self }
    }

    /// Returns the dtype of what products take and give in a model whose residual stream is in `dtype`: that of
    /// [`with_products`](Self::with_products) where kernels read and write it, so that nothing between two
    /// products is converted; else `dtype`.
    #[must_use]
    pub fn narrow(self, dtype: Dtype) -> Dtype {
        self.products.filter(|_| self.operations.narrows()).unwrap_or(dtype)
    }

    /// Returns the kernels that plain MLX operations replace.
    pub fn switched_off(self) -> Kernels {
        self.off
    }

    /// Returns the operations that it has kernels for, switched off or not.
    pub fn kernels(self) -> Kernels {
        self.operations.kernels()
    }

    /// Returns the implementation of an operation that has a kernel.
    fn at(self, kernel: Kernel) -> &'static dyn Operations {
        if self.off.contains(kernel) { &Plain } else { self.operations }
    }

    /// Returns the fastest back end for the same device whose results have gradients, with
    /// activations in float32.
    #[must_use]
    pub fn differentiable(self) -> Self {
        Self { products: self.products, ..Self::of(self.operations.differentiable()) }
    }

    /// Checks that this back end can be used for activations in `dtype`.
    ///
    /// # Errors
    /// The reason why not, as a text.
    pub fn takes(self, dtype: Dtype) -> Result<(), String> {
        self.operations.takes(dtype)
    }

    /// Describes the back end in a few words.
    pub fn describe(self) -> String {
        let mut name = self.operations.describe();
        if self.off != Kernels::NONE {
            name = format!("{name} without {}", self.off);
        }
        match self.products {
            Some(dtype) => format!("{name}, products in {dtype:?}"),
            None => name,
        }
    }

    /// Returns [`describe`](Self::describe), and for which operations plain MLX operations ran so
    /// far in this process instead, and why.
    pub fn report(self) -> String {
        let mut report = vec![self.describe()];
        report.extend(fallbacks());
        report.join("; ")
    }

    /// Returns the precision of activations in matrix multiplications with quantized matrices.
    pub fn activations(self) -> Activations {
        self.operations.activations()
    }

    /// Returns true if the kernels read dense weights and scales of any float dtype as they are
    /// stored; otherwise they must be given in the dtype of the activations.
    pub fn reads_stored_floats(self) -> bool {
        self.operations.reads_stored_floats()
    }

    /// Returns true if MLX has a kernel for the whole attention of many tokens in `dtype`, which does not write
    /// the weights of each pair of tokens to memory.
    pub fn fuses_attention(self, dtype: Dtype) -> bool {
        self.operations.fuses_attention(dtype)
    }

    /// Returns true if MLX allocates the results of up to a hundred operations before they are
    /// computed, so that a long call should be evaluated block by block to save memory.
    pub fn allocates_ahead(self) -> bool {
        self.operations.allocates_ahead()
    }

    /// Returns a matrix in the order in which the kernels of this back end read it: affine codes of 4
    /// or 8 bits are packed for CPUs, everything else is as in files. [`matmul`](Self::matmul) takes
    /// any, but packs what is not packed at each call. Lazy: nothing keeps the matrix in its old order.
    ///
    /// # Errors
    /// MLX's own.
    pub fn arrange(self, weight: Weight) -> mlx_rs::error::Result<Weight> {
        self.at(Kernel::MatmulRow).arrange(weight)
    }

    /// Computes all blocks of a model and the norm after them in one operation, if the back end has one
    /// and takes these arrays. Returns the norm (b, l, d) and the states of the mixers: in float32 to the
    /// bit as the single operations, in 16 bits with fewer roundings. Trusts the caller that the weights
    /// fit together. Lazy.
    ///
    /// # Errors
    /// [`ShapeError`] in [`MixerError`] names the first array that does not fit.
    pub fn blocks(
        self,
        args: &BlocksArgs<'_>,
    ) -> Result<Option<(Array, Vec<MixerState>)>, MixerError> {
        if self.off != Kernels::NONE {
            return Ok(None);
        }
        args.check()?;
        Ok(self.operations.blocks(args)?)
    }

    /// Returns true if a step of decoding is recorded once and replayed: see
    /// [`Compiled`](crate::mlx::Compiled).
    pub fn replays_steps(self) -> bool {
        self.operations.replays_steps()
    }

    /// Products with dense matrices are several times as fast where the number of the matrix's rows is a
    /// multiple of this.
    pub fn rows_multiple(self) -> usize {
        self.operations.rows_multiple()
    }

    /// Multiplies by a transposed matrix: `x (.., in) -> x W^T (.., out)`, in the dtype of `x`, or
    /// [`narrow`](Self::narrow).
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn matmul(self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        let rows = x.size() / x.shape().last().map_or(1, |&columns| columns.max(1) as usize);
        let operations = self.at(Kernel::matmul(rows));
        match (self.products, weight) {
            (Some(dtype), Weight::Dense(weight)) => {
                let operations = if self.takes(dtype).is_ok() { operations } else { &Plain };
                let weight = Weight::Dense(weight.as_dtype(dtype)?);
                let y = operations.matmul(&x.as_dtype(dtype)?, &weight)?;
                Ok(y.as_dtype(self.narrow(x.dtype()))?)
            }
            _ => operations.matmul(x, weight),
        }
    }

    /// Looks up the rows `ids` of a matrix, in `dtype`: see [`Weight::rows`].
    ///
    /// # Errors
    /// As [`Weight::rows`].
    pub fn rows(
        self,
        ids: &Array,
        weight: &Weight,
        dtype: Dtype,
    ) -> Result<Array, QuantizationError> {
        self.at(Kernel::Rows).rows(ids, weight, dtype)
    }

    /// Computes convolution, recurrence, skip and gate, for any length, continuing `state`.
    ///
    /// The recurrence runs in float32 whatever the activations are:
    /// `a_t = sigmoid(-A_log_t)`, `H_t = a_t H_{t-1} + x_t (outer) B_t`, `y_t = H_t C_t + D x_t`,
    /// and the result is `y * silu(z + z_bias)`. Outputs at padded positions are unspecified.
    /// Lazy: evaluates nothing.
    ///
    /// Source: Llamba (arXiv 2502.14458), section 3, and the model definition published with it.
    ///
    /// # Errors
    /// [`MixerError::Shape`] names the first array that does not fit.
    pub fn mixer(
        self,
        input: &MixerInput<'_>,
        state: &MixerState,
        weights: &MixerWeights,
        dims: Dims,
        activation: Activation,
    ) -> Result<Mixed, MixerError> {
        check(input, Some(state), weights, dims)?;
        let operations = self.at(Kernel::mixer(input.rows.dim(1) as usize));
        let rows = match operations.takes_padding() {
            true => input.rows.clone(),
            false => input.trimmed(dims)?,
        };
        let input = &MixerInput { rows: &rows, ..*input };
        Ok(operations.mixer(MixerArgs { input, state, weights, dims, activation })?)
    }

    /// Computes what [`mixer`](Self::mixer) does to its values before skip and gate, as a matrix
    /// over time: `y_t = sum_s T[t, s] x_s` with `T[t, s] = (C_t . B_s) prod_{s<k<=t} a_k` for
    /// `s <= t`, and `D` on the diagonal.
    ///
    /// Returns (b, h, l, l), float32, of sequences that begin with these rows; plain operations on
    /// any back end, with gradients. Memory is quadratic in the length. Entries of padded rows are
    /// unspecified.
    ///
    /// Source: MOHAWK (arXiv 2408.10189), section 3.
    ///
    /// # Errors
    /// As [`mixer`](Self::mixer).
    pub fn mixing_matrix(
        self,
        input: &MixerInput<'_>,
        weights: &MixerWeights,
        dims: Dims,
        activation: Activation,
    ) -> Result<Array, MixerError> {
        check(input, None, weights, dims)?;
        let state = MixerState::zeros(input.rows.dim(0) as usize, dims, input.rows.dtype())?;
        if self != self.differentiable() {
            log_fallback("mixing matrix", "there is no kernel for it");
        }
        let input = &MixerInput { rows: &input.trimmed(dims)?, ..*input };
        let args = MixerArgs { input, state: &state, weights, dims, activation };
        Ok(plain::mixing_matrix(args, self.operations.functions())?)
    }

    /// Computes the activation of a gated MLP, `silu(gate) * up`, of (.., 2m) with the gate first,
    /// to (.., m).
    ///
    /// Source: SwiGLU (arXiv 2002.05202).
    ///
    /// # Errors
    /// MLX's report of an odd last axis.
    pub fn swiglu(self, gate_up: &Array) -> mlx_rs::error::Result<Array> {
        self.at(Kernel::Swiglu).swiglu(gate_up)
    }

    /// Computes `x / rms(x) * weight` of `x` (.., d) with a weight (d,), as in
    /// [`add_rms_norm`](Self::add_rms_norm). The result is in [`narrow`](Self::narrow) of the dtype of `x`.
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn rms_norm(self, x: &Array, weight: &Array, epsilon: f32) -> mlx_rs::error::Result<Array> {
        let narrow = self.narrow(x.dtype());
        self.at(Kernel::RmsNorm).rms_norm(x, weight, epsilon, narrow)
    }

    /// Computes a residual connection and the norm that follows it: `x + y`, and
    /// `(x + y) / rms(x + y) * weight`, which is in [`narrow`](Self::narrow) of the dtype of `x`.
    ///
    /// | arg | shape |
    /// |---|---|
    /// | x, y | (.., d) |
    /// | weight | (d,) |
    ///
    /// Source: RMSNorm (arXiv 1910.07467); `epsilon` is added to the mean of the squares.
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn add_rms_norm(
        self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
    ) -> mlx_rs::error::Result<(Array, Array)> {
        let narrow = self.narrow(x.dtype());
        self.at(Kernel::AddRmsNorm).add_rms_norm(x, y, weight, epsilon, narrow)
    }

    /// Computes the softmax of `x` (.., n) over its last axis, summed in float32, and 0 where `mask`
    /// (bool, of a shape that broadcasts to that of `x`) is false. Every row must have something true.
    ///
    /// # Errors
    /// MLX's report of a scalar, and of a mask that does not fit.
    pub fn softmax(self, x: &Array, mask: Option<&Array>) -> mlx_rs::error::Result<Array> {
        self.operations.softmax(x, mask)
    }

    /// Turns heads (b, l, heads, k) to the positions 0 to l - 1 of their tokens: of the first `turned` elements of a
    /// head, the pairs (i, i + turned / 2) by the angle position / wavelength, given wavelengths (turned / 2,) over
    /// 2 pi in float32. Lazy.
    ///
    /// Source: RoFormer (arXiv 2104.09864).
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn rope(self, x: &Array, turned: i32, wavelengths: &Array) -> mlx_rs::error::Result<Array> {
        self.operations.rope(x, turned, wavelengths)
    }

    /// Computes `softmax(scale q k^T) v` of one query a head of many texts, each over the tokens of its
    /// own text: see [`RingAttention`]. Returns (b, h, k) in the dtype of the queries. Lazy.
    ///
    /// Source: arXiv 1706.03762; grouped heads: arXiv 2305.13245.
    ///
    /// # Errors
    /// [`ShapeError`] in [`MixerError`] names the first array that does not fit.
    pub fn ring_attention(self, ring: &RingAttention<'_>) -> Result<Array, MixerError> {
        let RingAttention { queries, keys, values, positions, .. } = ring;
        let (q, shape) = (queries.shape(), keys.shape());
        let size = |shape: &[i32], axis: usize| shape.get(axis).map_or(0, |&size| size as usize);
        let (b, h, k) = (size(q, 0), size(q, 1), size(q, 2));
        let (g, room) = (size(shape, 1), size(shape, 2));
        if q.len() != 3 || g == 0 || room == 0 || !h.is_multiple_of(g) {
            let expected = "(b, h, k), with h a multiple of the keys' heads".to_owned();
            return Err(ShapeError { array: "queries", found: q.to_vec(), expected }.into());
        }
        expect("keys", keys, &[b, g, room, k])?;
        expect("values", values, &[b, g, room, k])?;
        expect("positions", positions, &[b])?;
        Ok(self.at(Kernel::RingAttention).ring_attention(ring)?)
    }

    /// Draws one token for every row of `logits` (b, width): see [`Draw`]. Returns (b,) u32. Lazy.
    ///
    /// All back ends take the same noise for a key: they draw the same tokens, but for the rounding
    /// of two that are equally high.
    ///
    /// Source: the Gumbel-max trick, arXiv 1411.0030.
    ///
    /// # Errors
    /// [`ShapeError`] in [`MixerError`] names the array that does not fit.
    pub fn draw(self, logits: &Array, draw: &Draw<'_>) -> Result<Array, MixerError> {
        let (b, vocab) = (draw.keys.len(), draw.vocab);
        let fits = |shape: &[i32]| matches!(*shape, [rows, width] if rows as usize == b && width as usize >= vocab);
        if !fits(logits.shape()) || vocab == 0 {
            let (found, expected) = (logits.shape().to_vec(), format!("({b}, {vocab} or more)"));
            return Err(ShapeError { array: "logits", found, expected }.into());
        }
        Ok(self.at(Kernel::Draw).draw(logits, draw)?)
    }

    /// Computes the cross entropy of `logits` (m, v) with a `teacher`'s (m, v), if there is one,
    /// and the gradient `w (softmax(logits / T) - softmax(teacher / T)) + v softmax(logits)` of `w
    /// T KL(softmax(teacher / T) || softmax(logits / T)) + v log sum e^logits` with respect to the
    /// logits: see [`CrossEntropyOptions`] and [`CrossEntropy`]. Any float dtypes; sums are
    /// float32, the gradient has the logits' dtype. The result itself has no gradient.
    ///
    /// # Errors
    /// [`ShapeError`] in [`MixerError`] if `teacher` is of another shape.
    pub fn cross_entropy(
        self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy, MixerError> {
        let shape: Vec<usize> = logits.shape().iter().map(|&size| size as usize).collect();
        if shape.len() != 2 || shape.contains(&0) {
            let (found, expected) = (logits.shape().to_vec(), "(m, v), m, v > 0".to_owned());
            return Err(ShapeError { array: "logits", found, expected }.into());
        }
        if let Some(teacher) = teacher {
            expect("teacher", teacher, &shape)?;
        }
        Ok(self.at(Kernel::CrossEntropy).cross_entropy(logits, teacher, how)?)
    }

    /// Computes the Euclidean norms of the rows of `x + y - target`, all (.., d) of any float dtypes, as (..) in
    /// float32, with gradients with respect to x and y; 0 has the gradient 0. Lazy.
    ///
    /// # Errors
    /// MLX's report of shapes that do not fit.
    pub fn distances(self, x: &Array, y: &Array, target: &Array) -> mlx_rs::error::Result<Array> {
        self.operations.distances(x, y, target)
    }

    /// Computes a step of AdamW from a parameter, its gradient, m and v, all of one shape, and the
    /// scale of the gradient, a scalar. All float32. Lazy.
    ///
    /// Source: arXiv 1711.05101, algorithm 2.
    ///
    /// # Errors
    /// [`ShapeError`] in [`MixerError`] if shapes differ.
    pub fn adamw(self, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult, MixerError> {
        let shape: Vec<usize> = arrays[0].shape().iter().map(|&size| size as usize).collect();
        for (name, array) in ["parameter", "gradient", "m", "v"].into_iter().zip(arrays) {
            expect(name, array, &shape)?;
        }
        expect("scale", arrays[4], &[])?;
        Ok(self.operations.adamw(arrays, how)?)
    }

    /// Computes the sum of the squares of all elements of float32 arrays, a scalar. Lazy.
    ///
    /// # Errors
    /// MLX's own.
    pub fn sum_of_squares(self, arrays: &[&Array]) -> mlx_rs::error::Result<Array> {
        self.operations.sum_of_squares(arrays)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operations.name())
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        let same = self.off == other.off && self.products == other.products;
        same && self.operations.name() == other.operations.name()
    }
}

impl Eq for Backend {}

impl Hash for Backend {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.operations.name(), self.off, self.products).hash(state);
    }
}
