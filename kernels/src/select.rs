//! The choice of a back end, by the device and the environment.

use mlx_rs::Dtype;

use crate::backend::{Backend, KERNELS};
use crate::cpu;
use crate::kernel::Kernel;
use crate::operations::Activations;

/// The environment variable that chooses a back end: `auto`, `plain`, `single` or `custom`.
pub const VARIABLE: &str = "MLX_LLAMBA_KERNELS";

/// The environment variable that chooses the precision of activations: `float32` or `int8`.
const ACTIVATIONS: &str = "MLX_LLAMBA_ACTIVATIONS";

/// The reasons why no back end could be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The environment variable has an unknown value.
    #[error("{VARIABLE} is {found:?}, expected auto, plain, single or custom")]
    Variable {
        /// Its value.
        found: String,
    },
    /// The one for the activations has an unknown value.
    #[error("{ACTIVATIONS} is {found:?}, expected float32 or int8")]
    Activations {
        /// Its value.
        found: String,
    },
    /// A variable of the CPU kernels has a value that is impossible here.
    #[error(transparent)]
    Setting(#[from] cpu::SettingError),
    /// Int8 activations were asked for where there are none.
    #[error(
        "activations in int8 are for the CPU kernels, and this model runs on {running}; take \
         float32, or the CPU with activations of dtype float32"
    )]
    NoInt8 {
        /// The back end that runs instead.
        running: String,
    },
    /// Kernels were asked for by name and there are none for this device.
    #[error("{VARIABLE} is custom, but {reason}; unset it to use plain MLX operations")]
    NoKernels {
        /// The missing part.
        reason: String,
    },
    /// MLX does not know its own device.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

impl Backend {
    /// Returns the kernels for the [current device](crate::mlx::current_device) and activations in
    /// `dtype`, unless [`VARIABLE`] says otherwise: `plain` takes MLX's operations, `single` computes the
    /// operations of a step one by one, `custom` refuses to run without kernels.
    /// `MLX_LLAMBA_ACTIVATIONS` chooses the [`Activations`].
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn select(dtype: Dtype) -> Result<Self, BackendError> {
        Self::select_with(dtype, None)
    }

    /// As [`select`](Self::select), with these activations whatever the environment says.
    ///
    /// # Errors
    /// [`BackendError`]; [`BackendError::NoInt8`] where there are no int8 kernels.
    pub fn select_with(
        dtype: Dtype,
        activations: Option<Activations>,
    ) -> Result<Self, BackendError> {
        cpu::check_settings()?;
        let activations = activations.map_or_else(activations_from_env, Ok)?;
        let backend = Self::select_float(dtype)?;
        match activations {
            Activations::Float32 => Ok(backend),
            Activations::Int8 => backend
                .operations
                .with_int8()
                .map(Self::of)
                .ok_or_else(|| BackendError::NoInt8 { running: backend.describe() }),
        }
    }

    fn select_float(dtype: Dtype) -> Result<Self, BackendError> {
        let wanted = std::env::var_os(VARIABLE).unwrap_or_default();
        match wanted.to_str() {
            Some("plain") => Ok(Self::PLAIN),
            Some("" | "auto") => Self::or_plain(dtype),
            Some("single") => {
                let backend = Self::or_plain(dtype)?;
                Ok(match backend.kernels().contains(Kernel::Blocks) {
                    true => backend.without([Kernel::Blocks].into_iter().collect()),
                    false => backend,
                })
            }
            Some("custom") => {
                Self::custom(dtype)?.map_err(|reason| BackendError::NoKernels { reason })
            }
            _ => Err(BackendError::Variable { found: wanted.to_string_lossy().into_owned() }),
        }
    }

    /// Returns the kernels for the current device, or plain operations.
    fn or_plain(dtype: Dtype) -> Result<Self, BackendError> {
        Ok(Self::custom(dtype)?.unwrap_or_else(|reason| {
            log::info!("{}, because {reason}", Self::PLAIN.describe());
            Self::PLAIN
        }))
    }

    /// Returns the kernels for the current device, or the reason why there are none.
    fn custom(dtype: Dtype) -> mlx_rs::error::Result<Result<Self, String>> {
        for backend in KERNELS {
            if backend.operations.is_for_current_device()? {
                return Ok(backend.takes(dtype).map(|()| backend));
            }
        }
        Ok(Err("there are no kernels for this kind of GPU".into()))
    }

    /// Returns the fastest back end for the current device whose results have gradients, in
    /// float32; plain operations if [`VARIABLE`] is `plain`.
    ///
    /// # Errors
    /// MLX's report of its device.
    pub fn with_gradients() -> mlx_rs::error::Result<Self> {
        if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == "plain") {
            return Ok(Self::PLAIN);
        }
        Ok(Self::custom(Dtype::Float32)?.map_or(Self::PLAIN, Self::differentiable))
    }
}

fn activations_from_env() -> Result<Activations, BackendError> {
    let wanted = std::env::var_os(ACTIVATIONS).unwrap_or_default();
    match wanted.to_str() {
        Some("" | "float32") => Ok(Activations::Float32),
        Some("int8") => Ok(Activations::Int8),
        _ => Err(BackendError::Activations { found: wanted.to_string_lossy().into_owned() }),
    }
}
