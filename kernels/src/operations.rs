//! The trait that back ends implement; its defaults are plain MLX operations.

use std::fmt::Debug;

use mlx_rs::{Array, Dtype};

use crate::adamw::{AdamWResult, AdamWStep, adamw, sum_of_squares};
use crate::attention::RingAttention;
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions, cross_entropy};
use crate::draw::Draw;
use crate::elementwise::Functions;
use crate::fallback::PLAIN;
use crate::mixer::{Mixed, MixerArgs};
use crate::mlx::Result;
use crate::{BlocksArgs, Kernels, MixerState, QuantizationError, Weight, plain};

/// Precision of the activations in matrix multiplications with a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activations {
    /// Float32, unchanged.
    #[default]
    Float32,
    /// Rounded to int8 in blocks of 32 that share a scale, where the matrix has affine codes of 4
    /// or 8 bits; everything else is float32. Faster, on CPUs only; errors are about 0.5 % of the
    /// sum of the absolute values of all products, instead of 1e-7.
    Int8,
}

/// One implementation of the operations documented at [`Backend`](crate::Backend), which checks
/// the shapes before it calls them. A kernel that does not take a case leaves it to plain MLX
/// operations and logs the reason.
pub(crate) trait Operations: Debug + Send + Sync {
    /// Name, different for each implementation and setting.
    fn name(&self) -> &'static str;

    /// See [`Backend::describe`](crate::Backend::describe).
    fn describe(&self) -> String;

    /// Returns true if operations built now run on the kind of device that this is made for.
    fn is_for_current_device(&self) -> Result<bool>;

    /// See [`Backend::takes`](crate::Backend::takes).
    fn takes(&self, dtype: Dtype) -> Result<(), String>;

    /// Returns the operations that it has kernels for.
    fn kernels(&self) -> Kernels {
        Kernels::NONE
    }

    /// See [`Backend::activations`](crate::Backend::activations).
    fn activations(&self) -> Activations {
        Activations::Float32
    }

    /// Returns the same back end with [`Activations::Int8`], if there is one.
    fn with_int8(&self) -> Option<&'static dyn Operations> {
        None
    }

    /// See [`Backend::differentiable`](crate::Backend::differentiable).
    fn differentiable(&self) -> &'static dyn Operations {
        &Plain
    }

    /// See [`Backend::reads_stored_floats`](crate::Backend::reads_stored_floats).
    fn reads_stored_floats(&self) -> bool {
        false
    }

    /// See [`Backend::allocates_ahead`](crate::Backend::allocates_ahead).
    fn allocates_ahead(&self) -> bool {
        false
    }

    /// See [`Backend::arrange`](crate::Backend::arrange).
    fn arrange(&self, weight: Weight) -> Result<Weight> {
        Ok(match weight {
            Weight::Packed(packed) => Weight::Quantized(packed.unpacked()?),
            stored => stored,
        })
    }

    /// See [`Backend::blocks`](crate::Backend::blocks).
    fn blocks(&self, _: &BlocksArgs<'_>) -> Result<Option<(Array, Vec<MixerState>)>> {
        Ok(None)
    }

    /// See [`Backend::replays_steps`](crate::Backend::replays_steps).
    fn replays_steps(&self) -> bool {
        false
    }

    /// See [`Backend::rows_multiple`](crate::Backend::rows_multiple).
    fn rows_multiple(&self) -> usize {
        1
    }

    /// Returns true if a mixer's rows may end with padding.
    fn takes_padding(&self) -> bool {
        false
    }

    /// Functions for use inside plain operations.
    fn functions(&self) -> Functions {
        Functions::MLX
    }

    /// See [`Backend::fuses_attention`](crate::Backend::fuses_attention).
    fn fuses_attention(&self, _: Dtype) -> bool {
        false
    }

    /// See [`Backend::matmul`](crate::Backend::matmul). MLX's own products are the rule here, not a
    /// fallback: kernels take the quantized matrices and numbers of rows where they are faster.
    fn matmul(&self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        plain::matmul(x, weight)
    }

    /// See [`Backend::rows`](crate::Backend::rows).
    fn rows(&self, ids: &Array, weight: &Weight, dtype: Dtype) -> Result<Array, QuantizationError> {
        weight.rows(ids, dtype)
    }

    /// See [`Backend::mixer`](crate::Backend::mixer).
    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        plain::mixer(args, self.functions())
    }

    /// See [`Backend::swiglu`](crate::Backend::swiglu).
    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        plain::swiglu(gate_up)
    }

    /// See [`Backend::narrow`](crate::Backend::narrow).
    fn narrows(&self) -> bool {
        false
    }

    /// See [`Backend::rms_norm`](crate::Backend::rms_norm); the result is in `narrow`, the dtype of `x` unless
    /// the back end [narrows](Self::narrows).
    fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32, narrow: Dtype) -> Result<Array> {
        // On GPUs this is a kernel of MLX.
        mlx_rs::fast::rms_norm(x, Some(weight), epsilon)?.as_dtype(narrow)
    }

    /// See [`Backend::add_rms_norm`](crate::Backend::add_rms_norm); the norm is in `narrow`, as that of
    /// [`rms_norm`](Self::rms_norm).
    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
        narrow: Dtype,
    ) -> Result<(Array, Array)> {
        plain::add_rms_norm(x, y, weight, epsilon, narrow)
    }

    /// See [`Backend::softmax`](crate::Backend::softmax).
    fn softmax(&self, x: &Array, mask: Option<&Array>) -> Result<Array> {
        plain::softmax(x, mask)
    }

    /// See [`Backend::rope`](crate::Backend::rope).
    fn rope(&self, x: &Array, turned: i32, wavelengths: &Array) -> Result<Array> {
        plain::rope(x, turned, wavelengths)
    }

    /// See [`Backend::ring_attention`](crate::Backend::ring_attention).
    fn ring_attention(&self, ring: &RingAttention<'_>) -> Result<Array> {
        ring.plain(|scores| self.softmax(scores, None))
    }

    /// See [`Backend::draw`](crate::Backend::draw).
    fn draw(&self, logits: &Array, draw: &Draw<'_>) -> Result<Array> {
        draw.plain(logits)
    }

    /// See [`Backend::cross_entropy`](crate::Backend::cross_entropy).
    fn cross_entropy(
        &self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy> {
        cross_entropy(logits, teacher, how)
    }

    /// See [`Backend::distances`](crate::Backend::distances).
    fn distances(&self, x: &Array, y: &Array, target: &Array) -> Result<Array> {
        plain::distances(x, y, target)
    }

    /// See [`Backend::adamw`](crate::Backend::adamw).
    fn adamw(&self, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult> {
        adamw(arrays, how)
    }

    /// See [`Backend::sum_of_squares`](crate::Backend::sum_of_squares).
    fn sum_of_squares(&self, arrays: &[&Array]) -> Result<Array> {
        sum_of_squares(arrays)
    }
}

/// Plain MLX operations: any device, any dtype, gradients.
#[derive(Debug)]
pub(crate) struct Plain;

impl Operations for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn describe(&self) -> String {
        PLAIN.into()
    }

    fn is_for_current_device(&self) -> Result<bool> {
        Ok(true)
    }

    fn takes(&self, _: Dtype) -> Result<(), String> {
        Ok(())
    }
}
