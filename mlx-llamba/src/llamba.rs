//! A model with its tokenizer: what most programs use.

use std::path::{Path, PathBuf};

use mlx_llamba_kernels::{Activations, Backend};
use mlx_rs::{Device, DeviceType, Dtype};

use crate::checkpoint::Checkpoint;
use crate::context::Context;
use crate::decode::generation::{Completion, Generation};
use crate::decode::stream::Stream;
use crate::error::{Error, Result};
use crate::hub::{self, HubOptions};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// A Llamba, ready to generate.
pub struct Llamba {
    model: Model,
    tokenizer: Option<Tokenizer>,
}

impl Llamba {
    /// Starts loading a model: a directory, a `.safetensors` file, or a hub repository
    /// (`owner/name`, `owner/name@revision`).
    pub fn builder(model: impl Into<String>) -> Builder {
        Builder::new(Source::Named(model.into()))
    }

    /// Starts loading the small story-telling model that this library carries.
    #[cfg(feature = "embedded-model")]
    pub fn embedded() -> Builder {
        Builder::new(Source::Embedded)
    }

    /// The graph: forward pass, head, sizes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer, if the model has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// A place to start from.
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
    /// without a tokenizer, [`Error::Option`] for an impossible option.
    pub fn generate<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> Result<Completion> {
        self.stream(prompt, options)?.finish()
    }

    /// Reads the prompt and generates, one [`Event`](crate::Event) after the other.
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

    /// Goes on from a context with more prompt (which may be empty). Text that follows text gets
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
        let ids = match prompt.into() {
            Prompt::Tokens(ids) => ids.to_vec(),
            Prompt::Text(text) => self.require_tokenizer()?.encode(text, context.is_empty())?,
        };
        Stream::new(&self.model, self.tokenizer.as_ref(), context, &ids, options)
    }

    /// The tokenizer, or the error that says how to get one.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::TokenizerMissing {
            model: "this model".into(),
            reason: "it was loaded without one; text needs a tokenizer, token ids do not".into(),
        })
    }
}

/// What to read: text or token ids.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'p> {
    /// Text, for the tokenizer.
    Text(&'p str),
    /// Token ids, taken as they are.
    Tokens(&'p [u32]),
}

impl<'p> From<&'p str> for Prompt<'p> {
    fn from(text: &'p str) -> Self {
        Self::Text(text)
    }
}

impl<'p> From<&'p String> for Prompt<'p> {
    fn from(text: &'p String) -> Self {
        Self::Text(text)
    }
}

impl<'p> From<&'p [u32]> for Prompt<'p> {
    fn from(ids: &'p [u32]) -> Self {
        Self::Tokens(ids)
    }
}

impl<'p> From<&'p Vec<u32>> for Prompt<'p> {
    fn from(ids: &'p Vec<u32>) -> Self {
        Self::Tokens(ids)
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// The GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The GPU.
    Gpu,
    /// The CPU.
    Cpu,
}

impl Compute {
    /// Makes this the device of all MLX operations of the process, and says which one it is.
    ///
    /// # Errors
    /// [`Error::Option`] if there is no GPU, or this build cannot use it.
    pub fn select(self) -> Result<DeviceType> {
        // MLX reports errors through a handler that mlx-rs installs with its first call.
        mlx_rs::memory::active_memory()?;
        match self {
            Self::Auto => {}
            Self::Gpu => Device::set_default(&Device::gpu()),
            Self::Cpu => Device::set_default(&Device::cpu()),
        }
        let found = Device::try_default()?.get_type()?;
        if self == Self::Gpu && !matches!(found, DeviceType::Gpu) {
            return Err(Error::Option {
                option: "device",
                value: "gpu".into(),
                expected: "cpu: MLX finds no GPU here, or was built without one".into(),
            });
        }
        Ok(found)
    }
}

#[derive(Debug, Clone)]
enum Source {
    Named(String),
    #[cfg(feature = "embedded-model")]
    Embedded,
}

/// What to tell of a load: bytes read so far, and in all.
type Progress = Box<dyn FnMut(usize, usize)>;

/// Loads a [`Llamba`].
pub struct Builder {
    source: Source,
    tokenizer: Option<String>,
    fallback_tokenizer: Option<String>,
    read_tokenizer: fn(&Path) -> Result<Tokenizer>,
    without_tokenizer: bool,
    hub: Option<HubOptions>,
    compute: Compute,
    dtype: Option<Dtype>,
    activations: Option<Activations>,
    progress: Option<Progress>,
}

impl Builder {
    fn new(source: Source) -> Self {
        Self {
            source,
            tokenizer: None,
            fallback_tokenizer: None,
            read_tokenizer: |path| Tokenizer::open(path),
            without_tokenizer: false,
            hub: None,
            compute: Compute::default(),
            dtype: None,
            activations: None,
            progress: None,
        }
    }

    /// A tokenizer from elsewhere: a `tokenizer.json`, a directory, or a hub repository. The
    /// published Llamba checkpoints carry none.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: impl Into<String>) -> Self {
        self.tokenizer = Some(tokenizer.into());
        self
    }

    /// A tokenizer as for [`tokenizer`](Self::tokenizer), taken only if the model has none.
    #[must_use]
    pub fn fallback_tokenizer(mut self, tokenizer: impl Into<String>) -> Self {
        self.fallback_tokenizer = Some(tokenizer.into());
        self
    }

    /// How a tokenizer from elsewhere is read, once it is known where it lies: for files that this
    /// library does not know. Default: [`Tokenizer::open`].
    #[must_use]
    pub fn tokenizer_reader(mut self, read: fn(&Path) -> Result<Tokenizer>) -> Self {
        self.read_tokenizer = read;
        self
    }

    /// Loads no tokenizer: prompts are token ids, events have no text.
    #[must_use]
    pub fn without_tokenizer(mut self) -> Self {
        self.without_tokenizer = true;
        self
    }

    /// How to reach the hub. Default: as the environment says, [`HubOptions::from_env`].
    #[must_use]
    pub fn hub(mut self, hub: HubOptions) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Where to compute.
    #[must_use]
    pub fn compute(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// Dtype of the activations. Default: float32 on a CPU (where the half precisions are slow);
    /// on a GPU float16 if the checkpoint stores it, else bfloat16.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// What products with quantized matrices take. Default: as `MLX_LLAMBA_ACTIVATIONS` says, else
    /// float32.
    #[must_use]
    pub fn activations(mut self, activations: Activations) -> Self {
        self.activations = Some(activations);
        self
    }

    /// Called while the weights are read, with the bytes so far and in all.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(usize, usize) + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Where the model lies, fetched from the hub if need be; `None` for the one inside this
    /// library.
    ///
    /// # Errors
    /// Those of the hub.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        match &self.source {
            Source::Named(name) => self.resolve(name, hub::resolve).map(Some),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => Ok(None),
        }
    }

    /// The tokenizer from elsewhere, if [`tokenizer`](Self::tokenizer) named one.
    ///
    /// # Errors
    /// Those of the hub, and of [`Tokenizer::open`] or what reads in its place.
    pub fn other_tokenizer(&self) -> Result<Option<Tokenizer>> {
        self.tokenizer.as_ref().map(|name| self.open_tokenizer(name)).transpose()
    }

    /// Finds the checkpoint and reads its headers only.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and of the hub.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match &self.source {
            Source::Named(name) => Checkpoint::open(self.resolve(name, hub::resolve)?),
            #[cfg(feature = "embedded-model")]
            Source::Embedded => crate::embedded::checkpoint(),
        }
    }

    /// Finds and reads the tokenizer only; it must fit the checkpoint's vocabulary.
    ///
    /// # Errors
    /// As for [`load`](Self::load), [`Error::TokenizerMissing`] among them.
    pub fn load_tokenizer(&self) -> Result<Tokenizer> {
        let checkpoint = self.checkpoint()?;
        let tokenizer = self.find_tokenizer(&checkpoint)?;
        tokenizer.check_vocabulary(checkpoint.config().vocab_size)?;
        Ok(tokenizer)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`], of the hub and of the tokenizer.
    pub fn load(mut self) -> Result<Llamba> {
        let device = self.compute.select()?;
        let checkpoint = self.checkpoint()?;
        let dtype = self.dtype.unwrap_or_else(|| default_dtype(&device, &checkpoint));
        let backend = Backend::select_with(dtype, self.activations)?;
        let model = Model::with_backend(&checkpoint, dtype, backend)?;
        let tokenizer =
            if self.without_tokenizer { None } else { Some(self.find_tokenizer(&checkpoint)?) };
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_vocabulary(model.config().vocab_size)?;
        }
        let mut silent: Progress = Box::new(|_, _| {});
        model.materialize(self.progress.as_mut().unwrap_or(&mut silent))?;
        Ok(Llamba { model, tokenizer })
    }

    fn find_tokenizer(&self, checkpoint: &Checkpoint) -> Result<Tokenizer> {
        if let Some(tokenizer) = self.other_tokenizer()? {
            return Ok(tokenizer);
        }
        match &self.source {
            #[cfg(feature = "embedded-model")]
            Source::Embedded => crate::embedded::tokenizer(),
            Source::Named(name) => {
                let beside = Tokenizer::open(directory(checkpoint.path()));
                if !matches!(beside, Err(Error::TokenizerMissing { .. })) {
                    return beside;
                }
                // A model from the hub may name a tokenizer there; a local one asks for nothing.
                let named = checkpoint.config().tokenizer.as_ref();
                match self
                    .fallback_tokenizer
                    .as_ref()
                    .or(named.filter(|_| !Path::new(name).exists()))
                {
                    Some(other) => self.open_tokenizer(other),
                    None => beside,
                }
            }
        }
    }

    fn open_tokenizer(&self, name: &str) -> Result<Tokenizer> {
        (self.read_tokenizer)(&self.resolve(name, hub::resolve_tokenizer)?)
    }

    /// A local path as it is, or something from the hub.
    fn resolve(
        &self,
        name: &str,
        fetch: fn(&str, &HubOptions) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        if Path::new(name).exists() {
            return Ok(name.into());
        }
        match &self.hub {
            Some(hub) => fetch(name, hub),
            None => fetch(name, &HubOptions::from_env()?),
        }
    }
}

/// The directory of a checkpoint, which may be a single file.
fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

/// Matrices in half precision are slow on CPUs and fast on GPUs.
fn default_dtype(device: &DeviceType, checkpoint: &Checkpoint) -> Dtype {
    match device {
        DeviceType::Cpu => Dtype::Float32,
        DeviceType::Gpu if stores_float16(checkpoint) => Dtype::Float16,
        DeviceType::Gpu => Dtype::Bfloat16,
    }
}

fn stores_float16(checkpoint: &Checkpoint) -> bool {
    checkpoint.names().any(|tensor| tensor.dtype == Dtype::Float16)
}
