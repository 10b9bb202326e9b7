//! The options that choose a model and where it runs.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Result, bail};
use clap::ValueEnum;
use mlx_llamba::hub::{HubOptions, resolve_tokenizer};
use mlx_llamba::kernel_check::{KernelCheck, When};
use mlx_llamba::kernels::{Activations, Backend};
use mlx_llamba::{Builder, Compute, EMBEDDED_MODEL, Error, Llamba, Tokenizer};
use mlx_llamba_teacher::{
    self as teacher, Llama, Teacher, Window, is_teacher, open_tokenizer, tokenizer_of,
};
use mlx_rs::{DeviceType, Dtype};

use crate::interrupt;
use crate::output::usage;
use crate::progress::{Progress, Unit};
use crate::settings::Typed;
use crate::texts::TextArgs;

#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    source: Typed<SourceArgs>,
    #[command(flatten)]
    tokenizer: Typed<TokenizerArgs>,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(clap::Args)]
pub(crate) struct TokenizerArgs {
    /// Another tokenizer: a tokenizer.json, a directory, a .gguf file, or a hub repository
    /// [default: the model's own]
    #[arg(long)]
    tokenizer: Option<String>,
}

impl Typed<TokenizerArgs> {
    /// Loads the tokenizer to use for a model; `None` stands for the model's own. A typed one
    /// replaces the model's; a default is for models without one.
    fn load(&self, model: &Builder, offline: bool) -> teacher::Result<Option<Tokenizer>> {
        let Some(name) = &self.options.tokenizer else { return Ok(None) };
        if !self.has("tokenizer") {
            let Some(path) = model.path()? else { return Ok(None) };
            match tokenizer_of(&path) {
                Err(missing) if is_missing(&missing) => {}
                found => return Ok(Some(found?)),
            }
        }
        find_tokenizer(name, offline).map(Some)
    }
}

/// Loads a tokenizer: a path, or a repository of the hub.
fn find_tokenizer(name: &str, offline: bool) -> teacher::Result<Tokenizer> {
    open_tokenizer(&resolve_tokenizer(name, &hub(offline)?)?)
}

/// The options that name a checkpoint.
#[derive(clap::Args)]
pub(crate) struct SourceArgs {
    /// Directory, .safetensors or .gguf file, or hub repository (owner/name or owner/name@revision)
    /// [default: the small built-in model, which tells stories]
    #[arg(short, long)]
    model: Option<String>,
    /// Use only cached files of the hub; download nothing
    #[arg(long)]
    offline: bool,
}

#[derive(Clone, Copy, clap::Args)]
pub(crate) struct ComputeArgs {
    /// Device to compute on
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
    /// Dtype of the activations [default: float32 on a CPU; on a GPU the checkpoint's half
    /// precision, or bfloat16]
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// Precision of activations in 4- and 8-bit matrix multiplications on CPUs; int8 is faster but
    /// rounds [default: MLX_LLAMBA_ACTIVATIONS, or else float32]
    #[arg(long, value_enum)]
    activations: Option<ActivationsArg>,
    /// Compare the kernels with their definitions at load, and do without those that fail
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = CheckArg::Once)]
    check_kernels: CheckArg,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CheckArg {
    /// Every load, on CPUs too
    Always,
    /// The first load on a GPU; the result is kept
    Once,
    /// No load
    Never,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ActivationsArg {
    Float32,
    Int8,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DeviceArg {
    /// The GPU if there is one, else the CPU
    Auto,
    Gpu,
    Cpu,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DtypeArg {
    Float32,
    Float16,
    Bfloat16,
}

impl ModelArgs {
    /// Returns the builder; nothing is read yet.
    fn builder(&self) -> Builder {
        self.compute.apply(self.source.options.builder())
    }

    /// Loads the tokenizer to use; `None` stands for the model's own.
    fn tokenizer(&self) -> teacher::Result<Option<Tokenizer>> {
        let source = &self.source.options;
        self.tokenizer.load(&source.builder(), source.offline)
    }

    /// Uses this checkpoint unless one is given on the command line.
    pub(crate) fn set_default(&mut self, model: &str) {
        if !self.source.has("model") && !model.is_empty() {
            self.source.options.model =
                Some(model.to_owned()).filter(|model| model != EMBEDDED_MODEL);
        }
    }

    /// Returns the name of the checkpoint as it was given, or that of the built-in model.
    pub(crate) fn name(&self) -> &str {
        self.source.options.model.as_deref().unwrap_or(EMBEDDED_MODEL)
    }

    /// Selects the device. Returns the dtype of the activations for a model without a checkpoint,
    /// and the back end.
    pub(crate) fn select(&self) -> Result<(Dtype, Backend)> {
        let dtype = self.compute.select()?;
        Ok((dtype, self.compute.backend(dtype)?))
    }

    /// Returns the builder of the model with its tokenizer; another tokenizer is loaded.
    pub(crate) fn text_builder(&self) -> Result<Builder> {
        Ok(match self.tokenizer()? {
            Some(tokenizer) => self.builder().loaded_tokenizer(tokenizer),
            None => self.builder(),
        })
    }

    /// Loads the model with a progress bar, and its tokenizer if `text` is true.
    pub(crate) fn load(&self, text: bool) -> Result<Llamba> {
        load(if text { self.text_builder()? } else { self.builder().without_tokenizer() })
    }

    /// Returns the files of the model if it is a teacher.
    pub(crate) fn teacher(&self) -> Result<Option<PathBuf>> {
        Ok(self.builder().path()?.filter(|path| is_teacher(path)))
    }

    /// Loads a Llamba or a teacher with a progress bar, and its tokenizer if `text` is true.
    pub(crate) fn load_any(&self, text: bool) -> Result<Loaded> {
        let Some(path) = self.teacher()? else {
            return Ok(Loaded::Llamba(self.load(text)?));
        };
        let own = || tokenizer_of(&path);
        let tokenizer = || text.then(|| self.tokenizer()?.map_or_else(own, Ok)).transpose();
        Ok(Loaded::Teacher(self.compute.teacher(&path, tokenizer)?))
    }
}

/// A loaded model of either kind.
pub(crate) enum Loaded {
    /// A recurrent model.
    Llamba(Llamba),
    /// A Transformer.
    Teacher(Teacher),
}

impl Loaded {
    /// Returns the tokenizer.
    pub(crate) fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Llamba(llamba) => llamba.tokenizer(),
            Self::Teacher(teacher) => teacher.tokenizer(),
        }
    }

    /// Returns the tokenizer, or an error that says how to name one.
    pub(crate) fn require_tokenizer(&self) -> Result<&Tokenizer> {
        Ok(match self {
            Self::Llamba(llamba) => llamba.require_tokenizer()?,
            Self::Teacher(teacher) => teacher.require_tokenizer()?,
        })
    }
}

/// Evaluates an expression with the model of a [`Loaded`], whose type depends on its kind.
macro_rules! with_model {
    ($loaded:expr, |$model:ident| $work:expr) => {
        match $loaded {
            $crate::model::Loaded::Llamba(llamba) => {
                let $model = llamba.model();
                $work
            }
            $crate::model::Loaded::Teacher(teacher) => {
                let $model = teacher.llama();
                $work
            }
        }
    };
}
pub(crate) use with_model;

/// The options that limit a Transformer's attention.
#[derive(clap::Args)]
pub(crate) struct AttentionArgs {
    /// Let a Transformer attend to the last N tokens only, which bounds its memory; it was not
    /// trained for that
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    attention_window: Option<u32>,
    /// Let it also attend to the first N tokens of the text
    #[arg(
        long, value_name = "N", default_value_t = 4, requires = "attention_window",
        value_parser = clap::value_parser!(u32).range(..1 << 28)
    )]
    sinks: u32,
}

impl AttentionArgs {
    /// Applies the limit to the model called `name`.
    pub(crate) fn apply(&self, name: &str, model: Loaded) -> Result<Loaded> {
        let Some(size) = self.attention_window else { return Ok(model) };
        let Loaded::Teacher(teacher) = model else {
            bail!("{name} has no attention to limit; --attention-window is for Transformers");
        };
        let window = Window { size: size as usize, sinks: self.sinks as usize };
        Ok(Loaded::Teacher(teacher.with_window(Some(window))))
    }

    /// Returns the limit as JSON, null without one.
    pub(crate) fn json(&self) -> serde_json::Value {
        match self.attention_window {
            Some(size) => serde_json::json!({ "size": size, "sinks": self.sinks }),
            None => serde_json::Value::Null,
        }
    }
}

/// Loads a Llamba with a progress bar.
fn load(builder: Builder) -> Result<Llamba> {
    let progress = Progress::new("loading", Unit::Bytes);
    Ok(builder.progress(progress.callback()).load()?)
}

impl ComputeArgs {
    /// Loads a teacher with a progress bar.
    pub(crate) fn teacher(
        &self,
        path: &Path,
        tokenizer: impl FnOnce() -> teacher::Result<Option<Tokenizer>>,
    ) -> Result<Teacher> {
        let dtype = self.select()?;
        let mut llama = Llama::open(path, dtype, self.backend(dtype)?)?;
        let checked = self.kernel_check().apply(llama.backend(), || Ok(llama.kernel_checks()))?;
        if checked != llama.backend() {
            llama = llama.with_backend(checked)?;
        }
        let teacher = Teacher::new(llama, tokenizer()?)?;
        let progress = Progress::new("loading", Unit::Bytes);
        teacher.llama().materialize(&mut progress.callback())?;
        Ok(teacher)
    }
}

/// The options that choose two models to compare.
#[derive(clap::Args)]
pub(crate) struct PairArgs {
    /// The model to compare with: a directory, a file, a hub repository, or llamba-stories, the
    /// built-in model
    reference: String,
    /// The other model, with the same vocabulary
    other: Option<String>,
    /// The other model, as an option as in other commands
    #[arg(short, long, hide_env = true)]
    model: Option<String>,
    #[command(flatten)]
    tokenizer: Typed<TokenizerArgs>,
    /// Use only cached files of the hub; download nothing
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Precision of the other model's activations, to measure the cost of rounding them
    #[arg(long, value_enum, value_name = "ACTIVATIONS")]
    other_activations: Option<ActivationsArg>,
}

impl PairArgs {
    /// Returns the names of the reference and the other model. After `--model`, the second
    /// positional argument is the text.
    pub(crate) fn names(&self, texts: &mut TextArgs) -> Result<[String; 2]> {
        let other = match (&self.model, &self.other) {
            (None, Some(other)) => other,
            (Some(model), text) => {
                if let Some(text) = text {
                    texts.take(text)?;
                }
                model
            }
            (None, None) => usage!("one model: give another one, or --model"),
        };
        texts.check()?;
        Ok([self.reference.clone(), other.clone()])
    }

    /// Loads both models, with progress bars, and a tokenizer.
    pub(crate) fn load(
        &self,
        [reference, other]: &[String; 2],
    ) -> Result<(Loaded, Loaded, Tokenizer)> {
        let tokenizer = match self.tokenizer(reference) {
            Err(missing) if is_missing(&missing) => {
                // If neither has one, the reference's is the one that is missing.
                self.tokenizer(other).map_err(|_| missing)
            }
            found => found,
        }?;
        let load_model = |name: &str, compute: &ComputeArgs| -> Result<Loaded> {
            let builder = compute.apply(self.builder(name)).without_tokenizer();
            Ok(match builder.path()?.filter(|path| is_teacher(path)) {
                Some(path) => Loaded::Teacher(compute.teacher(&path, || Ok(None))?),
                None => Loaded::Llamba(load(builder)?),
            })
        };
        let reference = load_model(reference, &self.compute)?;
        let activations = self.other_activations.or(self.compute.activations);
        let other = load_model(other, &ComputeArgs { activations, ..self.compute })?;
        Ok((reference, other, tokenizer))
    }

    fn builder(&self, name: &str) -> Builder {
        builder(Some(name).filter(|name| *name != EMBEDDED_MODEL), self.offline)
    }

    /// Loads the tokenizer to use with the model called `name`.
    fn tokenizer(&self, name: &str) -> teacher::Result<Tokenizer> {
        let builder = self.builder(name);
        if let Some(tokenizer) = self.tokenizer.load(&builder, self.offline)? {
            return Ok(tokenizer);
        }
        match builder.path()?.filter(|path| is_teacher(path)) {
            Some(path) => tokenizer_of(&path),
            None => Ok(builder.load_tokenizer()?),
        }
    }
}

fn is_missing(error: &teacher::Error) -> bool {
    matches!(error, teacher::Error::Llamba(Error::TokenizerMissing { .. }))
}

/// Returns the builder of `model`, or of the built-in model; downloads show a progress bar.
pub(crate) fn builder(model: Option<&str>, offline: bool) -> Builder {
    let builder = match model {
        Some(model) => Llamba::builder(model),
        None => Llamba::embedded(),
    };
    // Without a home directory there is no cache; what needs one fails with that error.
    match hub(offline) {
        Ok(hub) => builder.hub(hub),
        Err(_) => builder,
    }
}

/// Returns the hub's options, with a progress bar for downloads.
pub(crate) fn hub(offline: bool) -> mlx_llamba::Result<HubOptions> {
    let hub = HubOptions::from_env()?;
    let offline = offline || hub.offline;
    let bar = Mutex::new(None::<(String, Progress)>);
    Ok(hub.offline(offline).progress(move |now| {
        if let Ok(mut bar) = bar.lock() {
            if bar.as_ref().is_none_or(|(file, _)| file != now.item) {
                *bar = Some((now.item.to_owned(), Progress::new(now.item, Unit::Bytes)));
            }
            if let Some((_, bar)) = &*bar {
                bar.at(now.done as usize, now.total as usize);
            }
        }
        interrupt::flow()
    }))
}

impl SourceArgs {
    /// Returns the builder of that checkpoint.
    pub(crate) fn builder(&self) -> Builder {
        builder(self.model.as_deref(), self.offline)
    }

    /// Loads a tokenizer: a path, or a repository of the hub.
    pub(crate) fn tokenizer(&self, name: &str) -> teacher::Result<Tokenizer> {
        find_tokenizer(name, self.offline)
    }
}

impl ComputeArgs {
    /// Selects the device, and returns the dtype of the activations for a model without a checkpoint.
    fn select(&self) -> Result<Dtype> {
        let found = Compute::from(self.device).select()?;
        Ok(match (self.dtype, found) {
            (Some(dtype), _) => dtype.into(),
            (None, DeviceType::Cpu) => Dtype::Float32,
            (None, DeviceType::Gpu) => Dtype::Bfloat16,
        })
    }

    fn apply(&self, builder: Builder) -> Builder {
        // The command computes everything on one device; the load reports an impossible one.
        let _ = Compute::from(self.device).select();
        let builder = builder.compute(self.device.into()).kernel_check(self.kernel_check());
        let builder = match self.dtype {
            Some(dtype) => builder.dtype(dtype.into()),
            None => builder,
        };
        match self.activations {
            Some(activations) => builder.activations(activations.into()),
            None => builder,
        }
    }

    /// Returns the options of the check of kernels.
    fn kernel_check(&self) -> KernelCheck {
        KernelCheck::default().when(match self.check_kernels {
            CheckArg::Always => When::Always,
            CheckArg::Once => When::Once,
            CheckArg::Never => When::Never,
        })
    }

    /// Selects the back end for activations of `dtype`.
    fn backend(&self, dtype: Dtype) -> Result<Backend> {
        Ok(Backend::select_with(dtype, self.activations.map(Into::into))?)
    }
}

impl From<DeviceArg> for Compute {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Gpu => Self::Gpu,
            DeviceArg::Cpu => Self::Cpu,
        }
    }
}

impl From<ActivationsArg> for Activations {
    fn from(activations: ActivationsArg) -> Self {
        match activations {
            ActivationsArg::Float32 => Self::Float32,
            ActivationsArg::Int8 => Self::Int8,
        }
    }
}

impl From<DtypeArg> for Dtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::Float32 => Self::Float32,
            DtypeArg::Float16 => Self::Float16,
            DtypeArg::Bfloat16 => Self::Bfloat16,
        }
    }
}
