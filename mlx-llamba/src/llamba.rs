//! A model with its tokenizer.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use mlx_llamba_kernels::mlx::{current_device, is_available, on_device};
use mlx_llamba_kernels::{Activations, Backend};
use mlx_rs::{Device, DeviceType, Dtype};

use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::decode::generation::{Completion, Generation};
use crate::decode::stream::Stream;
use crate::error::{Error, Result};
use crate::gpu_memory;
#[cfg(feature = "hub")]
use crate::hub::{self, HubOptions};
use crate::kernel_check::KernelCheck;
use crate::model::Model;
use crate::progress::{self, Progress};
use crate::tokenizer::Tokenizer;

/// A Llamba, ready to generate.
pub struct Llamba {
    model: Model,
    tokenizer: Option<Tokenizer>,
}

impl Llamba {
    /// Starts loading a model: a directory, a `.safetensors` file, or a hub repository
    /// (`owner/name`, `owner/name@revision`).
    pub fn builder(model: impl AsRef<OsStr>) -> Builder {
        Builder::new(Source::Named(model.as_ref().into()))
    }

    /// Starts loading the built-in model, which tells small stories.
    #[cfg(feature = "embedded-model")]
    pub fn embedded() -> Builder {
        Builder::new(Source::Embedded)
    }

    /// The model: forward pass, head, sizes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer, if the model has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Returns the context before the first token.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be allocated.
    pub fn context(&self) -> Result<Context> {
        Context::new(&self.model)
    }

    /// Reads the prompt, generates, and returns everything at once.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::TokenizerMissing`] for a text
    /// without a tokenizer, [`Error::Argument`] for an impossible option.
    pub fn generate<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> Result<Completion> {
        self.stream(prompt, options)?.finish()
    }

    /// Reads the prompt and generates, as an iterator of [`Event`](crate::Event)s.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn stream<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> Result<Stream<'_>> {
        self.resume(self.context()?, prompt, options)
    }

    /// Continues from a context with more prompt, which may be empty. Text that follows text gets
    /// no begin-of-text token.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn resume<'p>(
        &self,
        context: Context,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> Result<Stream<'_>> {
        let ids = prompt.into().encode(self.tokenizer(), context.is_empty())?;
        Stream::new(&self.model, self.tokenizer.as_ref(), context, &ids, options)
    }

    /// Returns the tokenizer, or an error that says how to get one.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer().ok_or_else(no_tokenizer)
    }
}

/// A prompt: text or token ids.
#[derive(Debug, Clone)]
pub enum Prompt<'p> {
    /// Text, for the tokenizer.
    Text(Cow<'p, str>),
    /// Token ids, taken as they are.
    Tokens(Cow<'p, [u32]>),
}

impl Prompt<'_> {
    /// Returns the token ids; `begins` says that they begin a text.
    ///
    /// # Errors
    /// Those of the tokenizer; [`Error::TokenizerMissing`] for text without one.
    pub fn encode(self, tokenizer: Option<&Tokenizer>, begins: bool) -> Result<Vec<u32>> {
        match (self, tokenizer) {
            (Self::Tokens(ids), _) => Ok(ids.into_owned()),
            (Self::Text(text), Some(tokenizer)) => tokenizer.encode(&text, begins),
            (Self::Text(_), None) => Err(no_tokenizer()),
        }
    }
}

/// Conversions from a type whose values are text, or are token ids.
macro_rules! prompt_from {
    ($([$($generics:tt)*] $type:ty => $variant:ident($prompt:ident) $value:expr;)*) => {$(
        impl<'p, $($generics)*> From<$type> for Prompt<'p> {
            fn from($prompt: $type) -> Self {
                Self::$variant($value)
            }
        }
    )*};
}

prompt_from! {
    [] &'p str => Text(text) Cow::Borrowed(text);
    [] &'p String => Text(text) Cow::Borrowed(text);
    [] String => Text(text) Cow::Owned(text);
    [] &'p [u32] => Tokens(ids) Cow::Borrowed(ids);
    [] &'p Vec<u32> => Tokens(ids) Cow::Borrowed(ids);
    [] Vec<u32> => Tokens(ids) Cow::Owned(ids);
    [const N: usize] &'p [u32; N] => Tokens(ids) Cow::Borrowed(ids);
    [const N: usize] [u32; N] => Tokens(ids) Cow::Owned(ids.to_vec());
}

fn no_tokenizer() -> Error {
    Error::TokenizerMissing {
        model: "this model".into(),
        reason: "it was loaded without one; text needs a tokenizer, token ids do not".into(),
    }
}

/// The device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// The default device: the GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The GPU.
    Gpu,
    /// The CPU.
    Cpu,
}

impl Compute {
    /// Returns the kind of device that this names.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no GPU, or this build cannot use it.
    pub fn device(self) -> Result<DeviceType> {
        match self {
            Self::Auto => Ok(current_device()?),
            Self::Cpu => Ok(DeviceType::Cpu),
            Self::Gpu if is_available(DeviceType::Gpu)? => Ok(DeviceType::Gpu),
            Self::Gpu => Err(Error::Argument {
                name: "device",
                value: "gpu".into(),
                expected: "cpu: MLX finds no GPU here, or was built without one".into(),
            }),
        }
    }

    /// Makes this the default device of the process, on which MLX operations run where no other
    /// is named, and returns its kind. A model keeps the device that it was loaded for.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no GPU, or this build cannot use it.
    pub fn select(self) -> Result<DeviceType> {
        let device = self.device()?;
        if self != Self::Auto {
            Device::set_default(&Device::new(device, 0));
        }
        Ok(device)
    }
}

#[derive(Debug, Clone)]
enum Source {
    Named(PathBuf),
    #[cfg(feature = "embedded-model")]
    Embedded,
}

/// The origin of a model's tokenizer.
enum TokenizerSource {
    /// The model's own.
    Model,
    /// A path, or a repository of the hub.
    Named(PathBuf),
    Loaded(Tokenizer),
    None,
}

/// An [`OnProgress`](crate::progress::OnProgress) that the builder keeps.
type BoxedOnProgress = Box<dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send>;

/// Loads a [`Llamba`].
#[derive(Setters)]
#[setters(strip_option)]
pub struct Builder {
    #[setters(skip)]
    source: Source,
    #[setters(skip)]
    tokenizer: TokenizerSource,
    /// Sets the options of the hub. Default: [`HubOptions::from_env`].
    #[cfg(feature = "hub")]
    hub: Option<HubOptions>,
    /// Sets the device to compute on.
    compute: Compute,
    /// Sets the dtype of the activations. Default: float32 on a CPU (where the half precisions are slow);
    /// on a GPU float16 if the checkpoint stores it, else bfloat16.
    dtype: Option<Dtype>,
    /// Sets the precision of activations in products with quantized matrices. Default: the value of
    /// `MLX_LLAMBA_ACTIVATIONS`, else float32.
    activations: Option<Activations>,
    /// Sets the options of the [check](crate::kernel_check) of a GPU's kernels.
    kernel_check: KernelCheck,
    #[setters(skip)]
    on_progress: BoxedOnProgress,
}

impl Builder {
    fn new(source: Source) -> Self {
        Self {
            source,
            tokenizer: TokenizerSource::Model,
            #[cfg(feature = "hub")]
            hub: None,
            compute: Compute::default(),
            dtype: None,
            activations: None,
            kernel_check: KernelCheck::default(),
            on_progress: Box::new(progress::ignore),
        }
    }

    /// Uses another tokenizer than the model's own: a `tokenizer.json`, a directory, or a hub
    /// repository. The published Llamba checkpoints have none.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: impl AsRef<OsStr>) -> Self {
        self.tokenizer = TokenizerSource::Named(tokenizer.as_ref().into());
        self
    }

    /// Uses a tokenizer that is loaded already.
    #[must_use]
    pub fn loaded_tokenizer(mut self, tokenizer: Tokenizer) -> Self {
        self.tokenizer = TokenizerSource::Loaded(tokenizer);
        self
    }

    /// Loads no tokenizer: prompts are token ids, events have no text.
    #[must_use]
    pub fn without_tokenizer(mut self) -> Self {
        self.tokenizer = TokenizerSource::None;
        self
    }

    /// Sets the callback for the bytes of weights that are read. It can stop the load.
    #[must_use]
    pub fn progress(
        mut self,
        on_progress: impl FnMut(Progress<'_>) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.on_progress = Box::new(on_progress);
        self
    }

    /// Returns the path of the model, downloaded if necessary; `None` for the built-in model.
    ///
    /// # Errors
    /// Those of the hub.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        match &self.source {
            Source::Named(name) => self.model_path(name).map(Some),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => Ok(None),
        }
    }

    /// Opens the checkpoint, reading only its headers.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and of the hub.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match &self.source {
            Source::Named(name) => Checkpoint::open(self.model_path(name)?),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => crate::embedded::checkpoint(),
        }
    }

    /// Loads the tokenizer only; it must fit the checkpoint's vocabulary.
    ///
    /// # Errors
    /// As for [`load`](Self::load), [`Error::TokenizerMissing`] among them.
    pub fn load_tokenizer(&self) -> Result<Tokenizer> {
        let checkpoint = self.checkpoint()?;
        self.find_tokenizer(&checkpoint)?.ok_or_else(no_tokenizer)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], of the hub and of the tokenizer.
    pub fn load(self) -> Result<Llamba> {
        let device = self.compute.device()?;
        on_device(device, || self.load_on(device))
    }

    fn load_on(mut self, device: DeviceType) -> Result<Llamba> {
        let checkpoint = self.checkpoint()?;
        let dtype = self.dtype.unwrap_or_else(|| default_dtype(&device, &checkpoint));
        let backend = Backend::select_with(dtype, self.activations)?;
        let mut model = Model::with_backend(&checkpoint, dtype, backend)?;
        let checked = self.kernel_check.apply(backend, || Ok(model.kernel_checks()))?;
        if checked != backend {
            model = Model::with_backend(&checkpoint, dtype, checked)?;
        }
        let tokenizer = self.find_tokenizer(&checkpoint)?;
        let gpu = matches!(device, DeviceType::Gpu);
        if gpu {
            gpu_memory::set(model.weight_bytes());
        }
        model.materialize(&mut *self.on_progress)?;
        if gpu {
            model.compile()?;
        }
        Ok(Llamba { model, tokenizer })
    }

    /// Returns the tokenizer, if one is wanted. It fits the vocabulary.
    fn find_tokenizer(&self, checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
        let tokenizer = match &self.tokenizer {
            TokenizerSource::Model => self.own_tokenizer(checkpoint)?,
            TokenizerSource::Named(name) => self.open_tokenizer(name)?,
            TokenizerSource::Loaded(tokenizer) => tokenizer.clone(),
            TokenizerSource::None => return Ok(None),
        };
        tokenizer.check_vocabulary(checkpoint.config().vocab_size)?;
        Ok(Some(tokenizer))
    }

    fn own_tokenizer(&self, checkpoint: &Checkpoint) -> Result<Tokenizer> {
        match &self.source {
            #[cfg(feature = "embedded-model")]
            Source::Embedded => crate::embedded::tokenizer(),
            Source::Named(name) => {
                let beside = Tokenizer::open(directory(checkpoint.path()));
                if !matches!(beside, Err(Error::TokenizerMissing { .. })) {
                    return beside;
                }
                // A model from the hub may name a tokenizer there; a local one asks for nothing.
                match checkpoint.config().tokenizer.as_ref().filter(|_| !name.exists()) {
                    Some(other) => self.open_tokenizer(Path::new(other)),
                    None => beside,
                }
            }
        }
    }

    fn open_tokenizer(&self, name: &Path) -> Result<Tokenizer> {
        #[cfg(feature = "hub")]
        if !name.exists() {
            let options = self.hub_options()?;
            return Tokenizer::open(hub::resolve_tokenizer(&name.to_string_lossy(), &options)?);
        }
        Tokenizer::open(name)
    }

    /// Returns a local path as it is; downloads another name from the hub.
    fn model_path(&self, name: &Path) -> Result<PathBuf> {
        #[cfg(feature = "hub")]
        if !name.exists() {
            return hub::resolve(&name.to_string_lossy(), &self.hub_options()?);
        }
        Ok(name.to_owned())
    }

    #[cfg(feature = "hub")]
    fn hub_options(&self) -> Result<HubOptions> {
        self.hub.clone().map_or_else(HubOptions::from_env, Ok)
    }
}

/// The directory of a checkpoint, which may be a single file.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

/// Half precision is slow on CPUs and fast on GPUs.
fn default_dtype(device: &DeviceType, checkpoint: &Checkpoint) -> Dtype {
    match device {
        DeviceType::Cpu => Dtype::Float32,
        DeviceType::Gpu if stores_float16(checkpoint) => Dtype::Float16,
        DeviceType::Gpu => Dtype::Bfloat16,
    }
}

fn stores_float16(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensors().any(|(_, tensor)| tensor.dtype() == safetensors::Dtype::F16)
}
