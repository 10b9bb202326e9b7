//! Which implementation computes the operations.
//!
//! Every operation has a twin in plain MLX operations, with the same arguments and results: what
//! runs where no kernel of ours does, the path with gradients, and what kernels are tested
//! against. A kernel says before it is launched whether it takes a case; where it does not, the
//! twin runs and the log says why.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use mlx_rs::{Array, Device, DeviceType, Dtype};

use crate::adamw::{AdamWStep, adamw};
use crate::cross_entropy::{Comparison, Slopes, cross_entropy};
use crate::dims::{ShapeError, expect};
use crate::elementwise::Elementwise;
use crate::metal::MetalError;
use crate::mixer::{Mixed, MixerError, MixerInput, MixerState, MixerWeights, check};
use crate::{Activation, Dims, QuantizationError, Weight, cpu, metal, plain};

/// The environment variable that chooses: `auto`, `plain` or `custom`.
pub const VARIABLE: &str = "MLX_LLAMBA_KERNELS";

/// The environment variable that says what products take: `float32` or `int8`.
const ACTIVATIONS: &str = "MLX_LLAMBA_ACTIVATIONS";

/// What products with a quantized matrix take for activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activations {
    /// Float32, as they are.
    #[default]
    Float32,
    /// Rounded to int8 in blocks of 32 that share a scale, in products with affine codes of 4 or
    /// 8 bits; everything else is float32. Faster, on CPUs only; errors are about 0.5 % of
    /// what a product adds up, in place of 1e-7.
    Int8,
}

impl Activations {
    /// What the environment asks for.
    fn from_env() -> Result<Self, BackendError> {
        let wanted = std::env::var_os(ACTIVATIONS).unwrap_or_default();
        match wanted.to_str() {
            Some("" | "float32") => Ok(Self::Float32),
            Some("int8") => Ok(Self::Int8),
            _ => Err(BackendError::Activations { found: wanted.to_string_lossy().into_owned() }),
        }
    }
}

/// What computes the operations of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Plain MLX operations: any device, any dtype, gradients.
    Plain,
    /// Compiled kernels for CPUs; activations in float32.
    Cpu,
    /// The same with [`Activations::Int8`].
    CpuInt8,
    /// Metal kernels.
    Metal,
    /// For training on CPUs: plain MLX operations, with those CPU kernels that have gradients;
    /// activations in float32.
    Training,
}

/// Why no back end could be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The environment variable says something else than it may.
    #[error("{VARIABLE} is {found:?}, expected auto, plain or custom")]
    Variable {
        /// Its value.
        found: String,
    },
    /// So does the one for the activations.
    #[error("{ACTIVATIONS} is {found:?}, expected float32 or int8")]
    Activations {
        /// Its value.
        found: String,
    },
    /// The variables of the CPU kernels say what cannot be.
    #[error(transparent)]
    Setting(#[from] cpu::SettingError),
    /// Int8 activations were asked for where there are none.
    #[error(
        "activations in int8 are for the CPU kernels, and this model runs on {running}; take \
         float32, or the CPU with activations of dtype float32"
    )]
    NoInt8 {
        /// What runs instead.
        running: String,
    },
    /// Kernels were asked for by name and there are none for this device.
    #[error("{VARIABLE} is custom, but {reason}; unset it to use plain MLX operations")]
    NoKernels {
        /// What is missing.
        reason: &'static str,
    },
    /// MLX does not know its own device.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

impl Backend {
    /// The kernels for the default device and activations in `dtype`, unless [`VARIABLE`] says
    /// otherwise: `plain` takes MLX's operations, `custom` refuses to run without kernels.
    /// `MLX_LLAMBA_ACTIVATIONS` chooses the [`Activations`] of products.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn select(dtype: Dtype) -> Result<Self, BackendError> {
        Self::select_with(dtype, None)
    }

    /// [`select`](Self::select), with these activations whatever the environment says.
    ///
    /// # Errors
    /// [`BackendError`]; [`BackendError::NoInt8`] where there are no products of int8.
    pub fn select_with(
        dtype: Dtype,
        activations: Option<Activations>,
    ) -> Result<Self, BackendError> {
        cpu::check_settings()?;
        let activations = activations.map_or_else(Activations::from_env, Ok)?;
        match (activations, Self::select_float(dtype)?) {
            (Activations::Float32, backend) => Ok(backend),
            (Activations::Int8, Self::Cpu) => Ok(Self::CpuInt8),
            (Activations::Int8, other) => Err(BackendError::NoInt8 { running: other.describe() }),
        }
    }

    fn select_float(dtype: Dtype) -> Result<Self, BackendError> {
        let wanted = std::env::var_os(VARIABLE).unwrap_or_default();
        match wanted.to_str() {
            Some("plain") => Ok(Self::Plain),
            Some("" | "auto") => Ok(Self::custom(dtype)?.unwrap_or_else(|reason| {
                log::info!("{}, because {reason}", Self::Plain.describe());
                Self::Plain
            })),
            Some("custom") => {
                Self::custom(dtype)?.map_err(|reason| BackendError::NoKernels { reason })
            }
            _ => Err(BackendError::Variable { found: wanted.to_string_lossy().into_owned() }),
        }
    }

    /// The kernels for the default device, or why there are none.
    fn custom(dtype: Dtype) -> mlx_rs::error::Result<Result<Self, &'static str>> {
        let backend = match Device::try_default()?.get_type()? {
            DeviceType::Cpu => Self::Cpu,
            DeviceType::Gpu if metal::available()? => Self::Metal,
            DeviceType::Gpu => return Ok(Err("there are no kernels for this kind of GPU")),
        };
        Ok(backend.takes(dtype).map(|()| backend))
    }

    /// Whether this back end can be used for activations in `dtype`, or why not.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn takes(self, dtype: Dtype) -> Result<(), &'static str> {
        match (self, dtype) {
            (Self::Plain, _) | (Self::Cpu | Self::CpuInt8 | Self::Training, Dtype::Float32) => {
                Ok(())
            }
            (Self::Cpu | Self::CpuInt8 | Self::Training, _) => {
                Err("the CPU kernels take float32 activations only")
            }
            (Self::Metal, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) => Ok(()),
            (Self::Metal, _) => Err("the Metal kernels take float32, float16 and bfloat16 only"),
        }
    }

    /// What runs, for people.
    pub fn describe(self) -> String {
        match self {
            Self::Plain => "plain MLX operations".into(),
            Self::Cpu => format!("CPU kernels ({}, {} threads)", cpu::simd(), cpu::threads()),
            Self::CpuInt8 => {
                let (simd, threads) = (cpu::simd(), cpu::threads());
                format!("CPU kernels ({simd}, {threads} threads, int8 activations)")
            }
            Self::Metal => "Metal kernels".into(),
            Self::Training => {
                let (simd, threads) = (cpu::simd(), cpu::threads());
                format!("plain MLX operations with CPU kernels ({simd}, {threads} threads)")
            }
        }
    }

    /// The fastest back end for the default device whose results have gradients, in float32; plain
    /// operations if [`VARIABLE`] is `plain`.
    ///
    /// # Errors
    /// What MLX reports of its device.
    pub fn with_gradients() -> mlx_rs::error::Result<Self> {
        let plain = std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == "plain");
        Ok(match Device::try_default()?.get_type()? {
            DeviceType::Cpu if !plain => Self::Training,
            _ => Self::Plain,
        })
    }

    /// What its products with quantized matrices take.
    pub fn activations(self) -> Activations {
        if self == Self::CpuInt8 { Activations::Int8 } else { Activations::Float32 }
    }

    /// What computes the functions inside plain operations.
    fn elementwise(self) -> Elementwise {
        if self == Self::Training { Elementwise::Cpu } else { Elementwise::Mlx }
    }

    /// What ran so far in this process: [`describe`](Self::describe), and for which operations
    /// plain MLX stood in and why.
    pub fn report(self) -> String {
        let stand_ins = STAND_INS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = self.describe();
        for stand_in in stand_ins.iter() {
            report += "; ";
            report += stand_in;
        }
        report
    }

    /// True if the kernels read dense weights and scales of any float dtype as they are stored;
    /// else they must be given in the dtype of the activations.
    pub fn reads_stored_floats(self) -> bool {
        matches!(self, Self::Cpu | Self::CpuInt8)
    }

    /// `x (.., in) -> x W^T (.., out)`, in the dtype of `x`.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn matmul(self, x: &Array, weight: &Weight) -> Result<Array, QuantizationError> {
        if matches!(self, Self::Cpu | Self::CpuInt8 | Self::Training) {
            let supported = match weight {
                Weight::Dense(_) => Ok(()),
                Weight::Quantized(_) if self == Self::Training => Err("codes have no gradient"),
                Weight::Quantized(weight) => cpu::supports(&weight.scheme),
            };
            match supported {
                Ok(()) => return Ok(cpu::matmul_with(x, weight, self.activations())?),
                Err(reason) => stand_in("products", reason),
            }
        }
        plain::matmul(x, weight)
    }

    /// Convolution, recurrence, skip and gate, for any length, continuing `state`.
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
        Ok(match self {
            Self::Cpu | Self::CpuInt8 if input.starts.is_some() => {
                stand_in("mixer", "the CPU kernels take no document starts");
                plain::mixer(input, state, weights, dims, activation, self.elementwise())?
            }
            Self::Cpu | Self::CpuInt8 => cpu::mixer(input, state, weights, dims, activation)?,
            Self::Metal => {
                or_plain("mixer", metal::mixer(input, state, weights, dims, activation), || {
                    plain::mixer(input, state, weights, dims, activation, self.elementwise())
                })?
            }
            Self::Plain | Self::Training => {
                plain::mixer(input, state, weights, dims, activation, self.elementwise())?
            }
        })
    }

    /// What [`mixer`](Self::mixer) does to its values before skip and gate, as a matrix over time:
    /// `y_t = sum_s T[t, s] x_s` with `T[t, s] = (C_t . B_s) prod_{s<k<=t} a_k` for `s <= t`, and
    /// `D` on the diagonal.
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
        if matches!(self, Self::Cpu | Self::CpuInt8 | Self::Metal) {
            stand_in("mixing matrix", "there is no kernel for it");
        }
        let maths = self.elementwise();
        Ok(plain::mixing_matrix(input, &state, weights, dims, activation, maths)?)
    }

    /// The activation of a gated MLP: `silu(gate) * up`, of (.., 2m) with the gate first, to
    /// (.., m).
    ///
    /// Source: SwiGLU (arXiv 2002.05202).
    ///
    /// # Errors
    /// What MLX reports of an odd last axis.
    pub fn swiglu(self, gate_up: &Array) -> mlx_rs::error::Result<Array> {
        match self {
            Self::Cpu | Self::CpuInt8 | Self::Training => cpu::swiglu(gate_up),
            Self::Metal => or_plain("swiglu", metal::swiglu(gate_up), || plain::swiglu(gate_up)),
            Self::Plain => plain::swiglu(gate_up),
        }
    }

    /// `x / rms(x) * weight` of `x` (.., d) with a weight (d,), as in
    /// [`add_rms_norm`](Self::add_rms_norm).
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn rms_norm(self, x: &Array, weight: &Array, epsilon: f32) -> mlx_rs::error::Result<Array> {
        match self {
            Self::Cpu | Self::CpuInt8 | Self::Training => cpu::rms_norm(x, weight, epsilon),
            // MLX has a kernel of its own on GPUs.
            Self::Metal | Self::Plain => mlx_rs::fast::rms_norm(x, Some(weight), epsilon),
        }
    }

    /// The new parameter, m and v, of a parameter, its gradient, m and v: all of one shape,
    /// float32. Lazy.
    ///
    /// Source: arXiv 1711.05101, algorithm 2.
    ///
    /// # Errors
    /// [`ShapeError`](crate::ShapeError) in [`MixerError`] if shapes differ.
    pub fn adamw(self, arrays: [&Array; 4], how: AdamWStep) -> Result<[Array; 3], MixerError> {
        let shape: Vec<usize> = arrays[0].shape().iter().map(|&size| size as usize).collect();
        for (name, array) in ["parameter", "gradient", "m", "v"].into_iter().zip(arrays) {
            expect(name, array, &shape)?;
        }
        let float = arrays.iter().all(|array| array.dtype() == Dtype::Float32);
        Ok(match self {
            Self::Cpu | Self::CpuInt8 | Self::Training if float => cpu::adamw(arrays, how)?,
            _ => adamw(arrays, how)?,
        })
    }

    /// The softmax of `x` (.., n) over its last axis, summed in float32.
    ///
    /// # Errors
    /// What MLX reports of a scalar.
    pub fn softmax(self, x: &Array) -> mlx_rs::error::Result<Array> {
        match self {
            Self::Cpu | Self::CpuInt8 | Self::Training if x.dtype() == Dtype::Float32 => {
                cpu::softmax(x)
            }
            _ => mlx_rs::ops::softmax_axis(x, -1, true),
        }
    }

    /// Compares `logits` (m, v) with a `teacher`'s (m, v), if there is one, and gives
    /// `w (softmax(logits / T) - softmax(teacher / T)) + v softmax(logits)` and sums: see
    /// [`Comparison`] and [`Slopes`]. All float32; without gradients, for it is one: of
    /// `w T KL(softmax(teacher / T) || softmax(logits / T)) + v log sum e^logits` by the logits.
    ///
    /// # Errors
    /// [`ShapeError`](crate::ShapeError) in [`MixerError`] if `teacher` is of another shape.
    pub fn cross_entropy(
        self,
        logits: &Array,
        teacher: Option<&Array>,
        how: Comparison,
    ) -> Result<Slopes, MixerError> {
        let shape: Vec<usize> = logits.shape().iter().map(|&size| size as usize).collect();
        if shape.len() != 2 || shape.contains(&0) {
            let (found, expected) = (logits.shape().to_vec(), "(m, v), m, v > 0".to_owned());
            return Err(ShapeError { array: "logits", found, expected }.into());
        }
        if let Some(teacher) = teacher {
            expect("teacher", teacher, &shape)?;
        }
        let floats = [Some(logits), teacher];
        let float = floats.into_iter().flatten().all(|array| array.dtype() == Dtype::Float32);
        Ok(match self {
            Self::Cpu | Self::CpuInt8 | Self::Training if float => {
                cpu::cross_entropy(logits, teacher, how)?
            }
            _ => cross_entropy(logits, teacher, how)?,
        })
    }

    /// `x + y`, and `(x + y) / rms(x + y) * weight`: a residual connection and the norm that
    /// follows it.
    ///
    /// | arg | shape |
    /// |---|---|
    /// | x, y | (.., d) |
    /// | weight | (d,) |
    ///
    /// Source: RMSNorm (arXiv 1910.07467); `epsilon` is added to the mean of the squares.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn add_rms_norm(
        self,
        x: &Array,
        y: &Array,
        weight: &Array,
        epsilon: f32,
    ) -> mlx_rs::error::Result<(Array, Array)> {
        match self {
            Self::Cpu | Self::CpuInt8 | Self::Training => cpu::add_rms_norm(x, y, weight, epsilon),
            Self::Metal => {
                or_plain("residual norm", metal::add_rms_norm(x, y, weight, epsilon), || {
                    plain::add_rms_norm(x, y, weight, epsilon)
                })
            }
            Self::Plain => plain::add_rms_norm(x, y, weight, epsilon),
        }
    }
}

/// What a Metal kernel gives, or what its twin does where the kernel does not take the case.
fn or_plain<T>(
    operation: &'static str,
    kernel: Result<T, MetalError>,
    twin: impl FnOnce() -> mlx_rs::error::Result<T>,
) -> mlx_rs::error::Result<T> {
    match kernel {
        Ok(result) => Ok(result),
        Err(MetalError::Unsupported(reason)) => {
            stand_in(operation, &reason);
            twin()
        }
        Err(MetalError::Mlx(error)) => Err(error),
    }
}

/// Why plain operations stood in for kernels, each reason once.
static STAND_INS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes and logs that a plain operation stands in for a kernel.
fn stand_in(operation: &'static str, reason: &str) {
    let message = format!("{operation} in {}, because {reason}", Backend::Plain.describe());
    let mut known = STAND_INS.lock().unwrap_or_else(PoisonError::into_inner);
    if !known.contains(&message) {
        log::info!("{message}");
        known.insert(message);
    }
}
