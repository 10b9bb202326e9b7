//! The operations as GPU kernels, as custom kernels of MLX's graph.
//!
//! A [`Launch`] describes everything that MLX is given: the source, its template arguments, the
//! grid and the outputs. Pure functions make it from shapes and dtypes, so that the emulator tests
//! run exactly what a GPU runs. The sources are in `kernels/metal`; the crate's README has the
//! arithmetic behind the sizes chosen here. `Gpu` runs launches on one kind of GPU.

mod adamw;
mod attention;
mod blocks;
pub(crate) mod call;
mod constants;
mod cross_entropy;
mod distance;
mod draw;
mod elementwise;
mod mixer_gradient;
mod mixer_launches;
mod recurrence;
mod rope;
mod scan;
mod softmax;
mod squares;
mod step;
mod training;

use mlx_rs::error::Exception;
use mlx_rs::{Array, DeviceType, Dtype};

pub use adamw::{adamw, adamw_launch};
pub use attention::ring_attention_launch;
pub use call::{
    Fusion, LaunchError, MIXER_INPUTS, MIXER_OUTPUTS, MatmulCall, MixerCall, THREADGROUP_BYTES,
};
pub use cross_entropy::{cross_entropy, cross_entropy_launch};
pub use distance::{distance_launches, distances};
pub use draw::draw_launch;
pub use elementwise::{
    NormCall, add_rms_norm_launch, add_rms_norm_with_gradient, norm_gradient_launch, norm_launch,
    rms_norm_with_gradient, swiglu_gradient_launch, swiglu_launch, swiglu_with_gradient,
};
pub use mixer_gradient::mixer_with_gradients;
pub use mixer_launches::{ChooseRecurrence, TrainingCall, TrainingLaunches};
pub(crate) use recurrence::blocks_of;
pub use recurrence::{
    Part, RECURRENCE_INPUTS, RECURRENCE_OUTPUTS, RecurrenceCall, recurrence_launch,
};
pub use rope::rope_launch;
pub use scan::mixer_scan;
pub use softmax::masked_softmax_launch;
pub use squares::{squares_launch, sum_of_squares};
pub use step::{MAX_STEPS, mixer_step};
pub(crate) use training::Training;
pub use training::training_backend;

pub use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

use crate::fallback::log_fallback;
use crate::mixer::MixerArgs;
use crate::mlx::{Result, current_device};
use crate::operations::Operations;
use crate::{
    Activation, BlocksArgs, CrossEntropy, CrossEntropyOptions, Dims, Draw, Kernel, Kernels, Mixed,
    MixerInput, MixerState, QuantizationError, Quantized, RingAttention, Weight, plain,
};

/// Puts a launch into MLX's graph, or computes it otherwise.
pub type Run = fn(&Launch, &[&Array]) -> Result<Vec<Array>>;

/// Returns the launch that computes a mixer: steps for up to [`MAX_STEPS`] tokens, with bits that
/// do not depend on how tokens are cut into calls; chunks beyond, or steps where sizes do not suit
/// them.
///
/// # Errors
/// [`LaunchError::Unsupported`] if neither takes the case.
pub fn mixer_launch(call: &MixerCall) -> Result<Launch, LaunchError> {
    if call.l <= MAX_STEPS {
        return mixer_step(call);
    }
    mixer_scan(call).or_else(|_| mixer_step(call))
}

/// Checks that a kernel takes a mixer of these sizes.
///
/// # Errors
/// The reason why none does, as a text.
pub fn supports(dims: Dims, l: usize, dtype: Dtype) -> Result<(), String> {
    let call = MixerCall {
        dims,
        b: 1,
        l,
        dtype,
        split_A_log: false,
        ragged: false,
        conv_bias: true,
        z_bias: true,
        activation: Activation::Identity,
    };
    mixer_launch(&call).map(drop).map_err(|error| error.to_string())
}

/// The launch of a product, and that of the sum of its parts if it has several.
pub type MatmulLaunches = (Launch, Option<Launch>);

/// A function that chooses the launches of a product.
type ChooseMatmul = fn(&MatmulCall) -> Result<MatmulLaunches, LaunchError>;

/// A function that chooses the launch that looks up rows.
type ChooseRows = fn(&MatmulCall) -> Result<Launch, LaunchError>;

/// A function that chooses the launch of a product with the operations beside it, if there is one.
type FusedMatmul = fn(&MatmulCall, Fusion) -> Result<Launch, LaunchError>;

/// One kind of GPU: it runs the launches of this module through one of MLX's interfaces.
#[derive(Debug)]
pub(crate) struct Gpu {
    /// Name of the kind.
    pub(crate) name: &'static str,
    /// Code in front of every kernel in Metal, which makes it one in the language of this kind.
    pub(crate) dialect: &'static str,
    /// Returns the launch that computes a mixer.
    pub(crate) mixer: fn(&MixerCall) -> Result<Launch, LaunchError>,
    /// Returns the launches that multiply by a quantized matrix. The calls that it does not take are
    /// MLX's, as all are without it.
    pub(crate) matmul: Option<ChooseMatmul>,
    /// Returns the launch that looks up rows of a quantized matrix; [`MatmulCall::m`] is their number.
    pub(crate) rows: Option<ChooseRows>,
    /// Returns the launch of a product in a step of decoding with the operations beside it.
    pub(crate) fused: Option<FusedMatmul>,
    /// Products with quantized matrices that no kernel here takes are those with the dequantized matrix from
    /// this number of rows on, and MLX's own below. On CUDA MLX has kernels for more rows, but compiles each
    /// variant of them at its first use, for 10 to 30 seconds.
    pub(crate) dequantizes_from: usize,
    /// Returns true if MLX has such a GPU here.
    pub(crate) available: fn() -> Result<bool>,
    /// Puts a launch into MLX's graph; the safety conditions are those of
    /// [`run`](crate::mlx::custom_kernel::metal::run).
    pub(crate) run: unsafe fn(&Launch, &str, &[&Array]) -> Result<Vec<Array>>,
    /// Steps of decoding are recorded: with the kernels here, building the graph of a step takes the host
    /// longer than the step takes the GPU.
    pub(crate) replays_steps: bool,
    /// The operations that have gradients.
    pub(crate) training: &'static Training,
}

impl Gpu {
    /// Puts a launch of this module into MLX's graph. The inputs must have the shapes and dtypes
    /// that the launch was made from.
    fn run<const N: usize>(&self, launch: &Launch, inputs: &[&Array]) -> Result<[Array; N]> {
        exactly(launch, self.outputs(launch, inputs)?)
    }

    /// As [`run`](Self::run), for any number of outputs.
    pub(crate) fn outputs(&self, launch: &Launch, inputs: &[&Array]) -> Result<Vec<Array>> {
        let prelude = match launch.source.language {
            Language::Metal => self.dialect,
            Language::Cuda => "",
        };
        // SAFETY: the functions of this module make launches from the shapes of the inputs they
        // pass. The kernels stay inside arrays of these shapes, whatever their values (lengths are
        // clamped), write every element of every output, and never an input. Over a list of shapes
        // the emulator's tests check this for the kernels in Metal; those in CUDA were checked on a
        // GPU, by `scripts/gpu-check` under compute-sanitizer.
        unsafe { (self.run)(launch, prelude, inputs) }
    }

    /// The mixer in one dispatch.
    fn mixer_kernel(&self, args: MixerArgs<'_>) -> Result<Mixed, LaunchError> {
        let MixerArgs { input, state, weights, dims, activation } = args;
        let MixerInput { rows, A_log, lengths, starts } = *input;
        if starts.is_some() {
            let reason = format!("the {} kernels take no document starts", self.name);
            return Err(LaunchError::Unsupported(reason));
        }
        let dtype = rows.dtype();
        let launch = (self.mixer)(&MixerCall {
            dims,
            b: rows.dim(0) as usize,
            l: rows.dim(1) as usize,
            dtype,
            split_A_log: A_log.is_some(),
            ragged: lengths.is_some(),
            conv_bias: weights.conv_bias.is_some(),
            z_bias: weights.z_bias.is_some(),
            activation,
        })?;
        let D = &weights.D;
        let converted;
        let conv = match dims.k {
            1 => D,
            _ if state.conv.dtype() == dtype => &state.conv,
            _ => {
                converted = state.conv.as_dtype(dtype)?;
                &converted
            }
        };
        let inputs = [
            rows,
            A_log.unwrap_or(D),
            lengths.unwrap_or(D),
            conv,
            &state.ssm,
            &weights.conv_weight,
            weights.conv_bias.as_ref().unwrap_or(D),
            weights.z_bias.as_ref().unwrap_or(D),
            D,
        ];
        let [y, conv, ssm] = self.run(&launch, &inputs)?;
        let conv = if dims.k == 1 { state.conv.clone() } else { conv };
        Ok(Mixed { y, state: MixerState { conv, ssm } })
    }

    /// Multiplies by a quantized matrix.
    fn matmul_kernel(&self, x: &Array, weight: &Quantized) -> Result<Array, LaunchError> {
        let (Some(matmul), Some(biases)) = (self.matmul, &weight.biases) else {
            let reason = "there is no kernel for such matrices".to_owned();
            return Err(LaunchError::Unsupported(reason));
        };
        let columns = x.shape().last().map_or(1, |&columns| columns.max(1));
        let m = x.size() / columns as usize;
        let call = MatmulCall::of(m, columns as usize, x.dtype(), weight)?;
        let (product, sum) = matmul(&call)?;
        let x2 = x.reshape(&[-1, columns])?; // (m, in)
        // The last one is a stand-in.
        let inputs = [&x2, &weight.weight, &weight.scales, biases, &x2];
        let [mut y] = self.run(&product, &inputs[..product.source.inputs.len()])?;
        if let Some(sum) = sum {
            [y] = self.run(&sum, &[&y])?;
        }
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = call.rows as i32;
        }
        Ok(y.reshape(&shape)?)
    }

    /// Looks up rows of a quantized matrix, one for each of (m, 1) ids.
    fn rows_kernel(
        &self,
        ids: &Array,
        weight: &Weight,
        dtype: Dtype,
    ) -> Result<Array, LaunchError> {
        let refuse = |reason: &str| Err(LaunchError::Unsupported(reason.to_owned()));
        let (Some(rows), &[m, 1], Weight::Quantized(matrix)) = (self.rows, ids.shape(), weight)
        else {
            return refuse("these are no rows of a step");
        };
        let Some(biases) = &matrix.biases else { return refuse("the matrix has no biases") };
        let groups = matrix.scales.shape().last().map_or(0, |&groups| groups as usize);
        let columns = groups * matrix.scheme.group_size;
        let launch = rows(&MatmulCall::of(m as usize, columns, dtype, matrix)?)?;
        let ids = ids.as_dtype(Dtype::Uint32)?;
        let [y] = self.run(&launch, &[&ids, &matrix.weight, &matrix.scales, biases])?;
        Ok(y)
    }

    fn ring_attention_kernel(&self, ring: &RingAttention<'_>) -> Result<Array, LaunchError> {
        let RingAttention { queries, keys, values, positions, read, scale, window } = *ring;
        if window.is_some() {
            return Err(LaunchError::Unsupported("the kernel knows no windows".into()));
        }
        let [b, h, k] = [0, 1, 2].map(|axis| queries.dim(axis) as usize);
        let (g, room) = (keys.dim(1) as usize, keys.dim(2) as usize);
        let launch = ring_attention_launch([b, h, k], g, room, queries.dtype(), scale)?;
        let read = Array::from_slice(&[read as i32], &[1]);
        let [y] = self.run(&launch, &[queries, keys, values, positions, &read])?;
        Ok(y)
    }

    fn draw_kernel(&self, logits: &Array, draw: &Draw<'_>) -> Result<Array, LaunchError> {
        let shape = [0, 1].map(|axis| logits.dim(axis) as usize);
        let launch = draw_launch(shape, logits.dtype(), draw.vocab)?;
        let limits = Array::from_slice(&[draw.temperature, draw.depth.abs()], &[2]);
        let [token] = self.run(&launch, &[logits, &draw.key_array(), &limits])?;
        Ok(token)
    }

    fn softmax_kernel(&self, x: &Array, mask: Option<&Array>) -> Result<Array, LaunchError> {
        let Some(mask) = mask else {
            return Err(LaunchError::Unsupported("MLX has a kernel without a mask".to_owned()));
        };
        let launch = masked_softmax_launch(x.shape(), x.dtype(), (mask.shape(), mask.dtype()))?;
        let [out] = self.run(&launch, &[x, mask])?;
        Ok(out)
    }

    fn rope_kernel(
        &self,
        x: &Array,
        turned: i32,
        wavelengths: &Array,
    ) -> Result<Array, LaunchError> {
        let launch = rope_launch(x.shape(), x.dtype(), turned)?;
        let [out] = self.run(&launch, &[x, wavelengths])?;
        Ok(out)
    }

    fn swiglu_kernel(&self, gate_up: &Array) -> Result<Array, LaunchError> {
        let launch = swiglu_launch(gate_up.shape(), gate_up.dtype())?;
        let [out] = self.run(&launch, &[gate_up])?;
        Ok(out)
    }

    fn add_rms_norm_kernel(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
    ) -> Result<(Array, Array), LaunchError> {
        if x.shape() != y.shape() || x.dtype() != y.dtype() {
            let [x, y] = [x, y].map(|a| format!("{:?} {:?}", a.dtype(), a.shape()));
            return Err(LaunchError::Unsupported(format!("the summands differ: {x} and {y}")));
        }
        if x.shape().last() != weight.shape().first() || weight.ndim() != 1 {
            let [x, w] = [x, weight].map(|a| format!("{:?}", a.shape()));
            return Err(LaunchError::Unsupported(format!("a weight {w} does not fit rows {x}")));
        }
        let launch = add_rms_norm_launch(x.shape(), x.dtype(), epsilon)?;
        let [sum, normed] = self.run(&launch, &[x, y, weight])?;
        Ok((sum, normed))
    }
}

impl Operations for Gpu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> String {
        format!("{} kernels", self.name)
    }

    fn is_for_current_device(&self) -> Result<bool> {
        let device = current_device()?;
        Ok(matches!(device, DeviceType::Gpu) && (self.available)()?)
    }

    fn takes(&self, dtype: Dtype) -> Result<(), String> {
        match dtype {
            Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => Ok(()),
            _ => {
                let name = self.name;
                Err(format!("the {name} kernels take float32, float16 and bfloat16 only"))
            }
        }
    }

    fn differentiable(&self) -> &'static dyn Operations {
        self.training
    }

    fn fuses_attention(&self, dtype: Dtype) -> bool {
        // On Metal not measured.
        matches!(dtype, Dtype::Float16 | Dtype::Bfloat16)
    }

    fn replays_steps(&self) -> bool {
        self.replays_steps
    }

    fn kernels(&self) -> Kernels {
        use Kernel::{Blocks, MatmulRow, MatmulRows, Rows};
        let matmul = |kernel| matches!(kernel, MatmulRow | MatmulRows | Blocks | Rows);
        let own = |kernel| kernel != Kernel::RmsNorm && (self.matmul.is_some() || !matmul(kernel));
        Kernel::ALL.into_iter().filter(|&kernel| own(kernel)).collect()
    }

    fn matmul(&self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        if let Weight::Quantized(quantized) = weight {
            match self.matmul_kernel(x, quantized) {
                Err(LaunchError::Unsupported(_)) => {}
                Err(LaunchError::Mlx(error)) => return Err(error.into()),
                Ok(y) => return Ok(y),
            }
            let rows = x.size() / x.shape().last().map_or(1, |&columns| columns.max(1) as usize);
            if rows >= self.dequantizes_from {
                return quantized.matmul_dequantized(x, quantized.weight.dim(0).max(1));
            }
        }
        plain::matmul(x, weight)
    }

    fn rows(&self, ids: &Array, weight: &Weight, dtype: Dtype) -> Result<Array, QuantizationError> {
        match self.rows_kernel(ids, weight, dtype) {
            Err(LaunchError::Unsupported(_)) => weight.rows(ids, dtype),
            Err(LaunchError::Mlx(error)) => Err(error.into()),
            Ok(rows) => Ok(rows),
        }
    }

    fn blocks(&self, args: &BlocksArgs<'_>) -> Result<Option<(Array, Vec<MixerState>)>> {
        match self.blocks_kernels(args) {
            Err(LaunchError::Unsupported(_)) => Ok(None),
            Err(LaunchError::Mlx(error)) => Err(error),
            Ok(found) => Ok(Some(found)),
        }
    }

    fn mixer(&self, args: MixerArgs<'_>) -> Result<Mixed> {
        or_plain("mixer", self.mixer_kernel(args), || plain::mixer(args, self.functions()))
    }

    fn swiglu(&self, gate_up: &Array) -> Result<Array> {
        or_plain("swiglu", self.swiglu_kernel(gate_up), || plain::swiglu(gate_up))
    }

    fn softmax(&self, x: &Array, mask: Option<&Array>) -> Result<Array> {
        match self.softmax_kernel(x, mask) {
            Err(LaunchError::Unsupported(_)) => plain::softmax(x, mask),
            Err(LaunchError::Mlx(error)) => Err(error),
            Ok(out) => Ok(out),
        }
    }

    fn rope(&self, x: &Array, turned: i32, wavelengths: &Array) -> Result<Array> {
        or_plain("rotary positions", self.rope_kernel(x, turned, wavelengths), || {
            plain::rope(x, turned, wavelengths)
        })
    }

    fn ring_attention(&self, ring: &RingAttention<'_>) -> Result<Array> {
        or_plain("ring attention", self.ring_attention_kernel(ring), || {
            ring.plain(|scores| self.softmax(scores, None))
        })
    }

    fn draw(&self, logits: &Array, draw: &Draw<'_>) -> Result<Array> {
        or_plain("draw", self.draw_kernel(logits, draw), || draw.plain(logits))
    }

    fn cross_entropy(
        &self,
        logits: &Array,
        teacher: Option<&Array>,
        how: CrossEntropyOptions,
    ) -> Result<CrossEntropy> {
        self.training.cross_entropy(logits, teacher, how)
    }

    fn add_rms_norm(
        &self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
        narrow: Dtype,
    ) -> Result<(Array, Array)> {
        or_plain("residual norm", self.add_rms_norm_kernel(x, y, weight, epsilon), || {
            plain::add_rms_norm(x, y, weight, epsilon, narrow)
        })
    }
}

/// Returns the outputs of a launch that has `N`.
fn exactly<const N: usize>(launch: &Launch, outputs: Vec<Array>) -> Result<[Array; N]> {
    outputs.try_into().map_err(|found: Vec<Array>| {
        let (name, found) = (launch.source.name, found.len());
        Exception::custom(format!("{name}: {found} outputs instead of {N}"))
    })
}

/// Returns the kernel's result, or that of plain operations where the kernel does not take the
/// case.
fn or_plain<T>(
    operation: &'static str,
    kernel: Result<T, LaunchError>,
    plain: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match kernel {
        Err(LaunchError::Unsupported(reason)) => {
            log_fallback(operation, &reason);
            plain()
        }
        Err(LaunchError::Mlx(error)) => Err(error),
        Ok(result) => Ok(result),
    }
}
