//! Checkpoints in every layout, opened by their headers and read tensor by tensor.

mod check;
mod fingerprint;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlx_llamba_kernels::Scheme;
use mlx_rs::{Array, Dtype};

use crate::config::{self, Config, Quantization};
use crate::error::{Error, FieldProblem, Result, TensorProblem, printable};
use crate::files::header::{self, Header};
use crate::files::{Source, Tensor, array, open};
use check::{Checked, Found, Placed};
pub(crate) use names::{Kind, Slot, slots};

/// The form in which a checkpoint is stored.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The published PyTorch form: `config.json`, and dense tensors in one or more files.
    PyTorch,
    /// Cartesia's MLX form: one file whose header holds the configuration.
    CartesiaMlx,
    /// This library's: PyTorch's names, with MLX's quantized arrays beside them.
    MlxLlamba,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PyTorch => "PyTorch",
            Self::CartesiaMlx => "Cartesia MLX",
            Self::MlxLlamba => "mlx-llamba",
        })
    }
}

/// A tensor of a checkpoint.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Canonical name: the PyTorch layout's, with `.scales` and `.biases` beside a quantized
    /// `.weight`.
    pub name: String,
    /// Its name in the file.
    pub stored_name: String,
    /// Name of the file.
    pub file: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; the convolution's is (channels, width) in every layout.
    pub shape: Vec<usize>,
    /// Length in bytes.
    pub bytes: usize,
}

/// A checkpoint whose configuration and headers were read and found sound: every tensor that the
/// configuration asks for is there with the right shape and dtype, and no other.
///
/// Weight files are mapped into memory; a tensor is read when an array made of it is evaluated,
/// and its pages are let go of right after. A file must not be shortened while a checkpoint, or
/// an array that was not evaluated yet, depends on it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    layout: Layout,
    config: Config,
    sources: Vec<Arc<Source>>,
    placed: Vec<Placed>,
    infos: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    schemes: BTreeMap<String, Scheme>,
    companions: &'static [(&'static str, &'static [u8])],
}

impl Checkpoint {
    /// Opens a directory (with `config.json` and one or more weight files, or with a single
    /// Cartesia MLX file), or a Cartesia MLX file itself. Only headers are read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotACheckpoint`], [`Error::Json`], [`Error::Config`],
    /// [`Error::Index`], [`Error::Header`] or [`Error::Tensors`]; the last two name everything
    /// that is wrong with fields and tensors at once.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let files = open::open(path)?;
        Self::build(path, files)
    }

    /// A checkpoint that is part of the program: `config` is the text of a `config.json`,
    /// `weights` a safetensors file. `name` stands for the path in messages.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_static(name: &str, config: &'static str, weights: &'static [u8]) -> Result<Self> {
        let source = Source::from_static(name, weights);
        let header = header::read(&source)?;
        let config = Some((PathBuf::from(name), config.to_owned()));
        let files = open::Files { config, weights: vec![(Arc::new(source), header)] };
        Self::build(Path::new(name), files)
    }

    fn build(path: &Path, files: open::Files) -> Result<Self> {
        let open::Files { config, weights } = files;
        let mut declared = None;
        let (layout, config, config_path) = match config {
            Some((config_path, text)) => {
                let config = Config::from_json(&config_path, &text)?;
                (own_layout(&config, &weights), config, config_path)
            }
            None => {
                let (file, header) = cartesia_file(path, &weights)?;
                declared = declared_scheme(&header.metadata);
                let shapes = header.tensors.iter().map(|t| (&*t.name, &*t.shape)).collect();
                let config = Config::from_metadata(&file.path, &header.metadata, &shapes)?;
                (Layout::CartesiaMlx, config, file.path.clone())
            }
        };
        check_overrides(&config, &config_path)?;
        let (sources, found) = gather(&config, weights);
        let Checked { placed, schemes } = check::check(&config, layout, found)
            .map_err(|problems| Error::Tensors { path: path.to_owned(), problems })?;
        let mut checkpoint = Self {
            path: path.to_owned(),
            layout,
            config,
            infos: placed.iter().map(|placed| info(placed, &sources)).collect(),
            by_name: placed.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect(),
            sources,
            placed,
            schemes,
            companions: &[],
        };
        if layout == Layout::CartesiaMlx {
            checkpoint.warn_of_stale_scheme(declared);
            checkpoint.config.quantization = Quantization::of(&checkpoint.schemes);
        }
        Ok(checkpoint)
    }

    /// Sizes and switches of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The form in which it is stored.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A lazy array of a tensor, by canonical name; it is read when first evaluated. Of a
    /// quantized matrix, `.weight` is the packed one. A tensor that holds NaN or infinity is
    /// named in a warning when it is read.
    ///
    /// # Errors
    /// [`Error::Tensors`] if the model has no such tensor, [`Error::Mlx`] if MLX refuses it.
    pub fn array(&self, name: &str) -> Result<Array> {
        let placed = self.placed(name)?;
        let start = placed.stored.start;
        self.lazy(placed, placed.shape.clone(), start..start + placed.stored.bytes)
    }

    /// All tensors, in the order in which a forward pass meets them.
    pub fn names(&self) -> impl Iterator<Item = &TensorInfo> {
        self.infos.iter()
    }

    /// How a matrix is quantized, `None` if it is dense. `prefix` is its canonical name without
    /// `.weight`, such as `backbone.layers.0.mixer.in_proj`.
    pub fn scheme(&self, prefix: &str) -> Option<Scheme> {
        self.schemes.get(prefix).copied()
    }

    /// True if any matrix is quantized.
    pub fn is_quantized(&self) -> bool {
        !self.schemes.is_empty()
    }

    /// True if the model has a tensor of this canonical name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor of this canonical name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.infos[i])
    }

    /// Files of the checkpoint that hold weights, with their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.sources.iter().map(|source| (source.path.as_path(), source.bytes().len()))
    }

    /// Values of the model: what a matrix stands for, not what it is packed into.
    pub fn parameters(&self) -> u64 {
        slots(&self.config).iter().map(|s| s.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.infos.iter().map(|info| info.bytes as u64).sum()
    }

    /// Bits that a value of the model takes on average, scales and biases included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.tensor_bytes() as f64 / self.parameters() as f64
    }

    /// A hash that is the same for the same arrays in every layout, and in practice for no
    /// others: over names, shapes, dtypes and three samples of each tensor.
    ///
    /// # Errors
    /// None at present.
    pub fn fingerprint(&self) -> Result<String> {
        Ok(fingerprint::fingerprint(self))
    }

    /// A lazy array of some of a tensor's rows.
    pub(crate) fn rows(&self, name: &str, rows: Range<usize>) -> Result<Array> {
        let placed = self.placed(name)?;
        let mut shape = placed.shape.clone();
        let row = placed.stored.bytes / shape[0];
        let start = placed.stored.start;
        shape[0] = rows.len();
        self.lazy(placed, shape, start + rows.start * row..start + rows.end * row)
    }

    /// The stored bytes of some of a tensor's rows.
    pub(crate) fn row_bytes(&self, name: &str, rows: Range<usize>) -> Option<&[u8]> {
        let index = *self.by_name.get(name)?;
        let row = self.placed[index].stored.bytes / self.placed[index].shape[0];
        self.bytes_at(index).get(rows.start * row..rows.end * row)
    }

    /// Lets go of the memory behind bytes that [`Checkpoint::row_bytes`] gave.
    pub(crate) fn release(&self, bytes: &[u8]) {
        for source in &self.sources {
            let offset = (bytes.as_ptr() as usize).checked_sub(source.bytes().as_ptr() as usize);
            if let Some(start) = offset.filter(|start| start + bytes.len() <= source.bytes().len())
            {
                source.release(start..start + bytes.len());
            }
        }
    }

    /// A tensor's dtype as safetensors names it.
    pub(crate) fn stored_dtype(&self, name: &str) -> Option<safetensors::Dtype> {
        self.by_name.get(name).map(|&i| self.placed[i].stored.dtype)
    }

    /// The directory that the checkpoint lies in, if it is not part of the program.
    pub(crate) fn directory(&self) -> Option<&Path> {
        let file = self.sources.first().filter(|source| source.is_file())?;
        file.path.parent()
    }

    /// Files that belong to a checkpoint that is part of the program: names and contents.
    pub(crate) fn companions(&self) -> &'static [(&'static str, &'static [u8])] {
        self.companions
    }

    /// The same checkpoint with such files.
    #[cfg(feature = "embedded-model")]
    pub(crate) fn with_companions(
        self,
        companions: &'static [(&'static str, &'static [u8])],
    ) -> Self {
        Self { companions, ..self }
    }

    fn placed(&self, name: &str) -> Result<&Placed> {
        self.by_name.get(name).map(|&i| &self.placed[i]).ok_or_else(|| {
            let problems = vec![TensorProblem::Unknown { name: name.to_owned() }];
            Error::Tensors { path: self.path.clone(), problems }
        })
    }

    fn lazy(&self, placed: &Placed, shape: Vec<usize>, range: Range<usize>) -> Result<Array> {
        Ok(array(Tensor {
            name: placed.stored.name.clone(),
            dtype: placed.stored.dtype,
            shape,
            range,
            source: Arc::clone(&self.sources[placed.file]),
        })?)
    }

    fn bytes_at(&self, index: usize) -> &[u8] {
        let placed = &self.placed[index];
        let start = placed.stored.start;
        &self.sources[placed.file].bytes()[start..start + placed.stored.bytes]
    }

    fn by_name_order(&self) -> Vec<(usize, &TensorInfo)> {
        let mut order: Vec<_> = self.infos.iter().enumerate().collect();
        order.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        order
    }

    fn warn_of_stale_scheme(&self, declared: Option<(u64, u64)>) {
        let Some((group_size, bits)) = declared else {
            return;
        };
        let differs = |s: &&Scheme| (s.group_size as u64, s.bits as u64) != (group_size, bits);
        if let Some(scheme) = self.schemes.values().find(differs) {
            log::warn!(
                "{}: the header speaks of {bits} bits in groups of {group_size}, the tensors have \
                 {} in groups of {}; the tensors count",
                self.path.display(),
                scheme.bits,
                scheme.group_size
            );
        }
    }
}

/// Files beside a `config.json` are PyTorch's unless something in them is MLX's.
fn own_layout(config: &Config, weights: &[(Arc<Source>, Header)]) -> Layout {
    let mlx = |(_, header): &(_, Header)| header.metadata.get("format").is_some_and(|f| f == "mlx");
    if config.quantization.is_some() || config.split_a_log || weights.iter().any(mlx) {
        Layout::MlxLlamba
    } else {
        Layout::PyTorch
    }
}

/// Without a configuration beside it, a file must hold its own.
fn cartesia_file<'a>(
    path: &Path,
    weights: &'a [(Arc<Source>, Header)],
) -> Result<(&'a Source, &'a Header)> {
    let reason = match weights {
        [(source, header)]
            if header.tensors.iter().any(|t| t.name == "embedding.encoder.weight")
                || header.metadata.contains_key("_class_") =>
        {
            return Ok((source, header));
        }
        [_] if path.is_file() => {
            "the file holds no Cartesia MLX model; of a model with a config.json, give the directory"
        }
        _ => "there is no config.json, and no file that holds its own configuration",
    };
    Err(Error::NotACheckpoint { path: path.to_owned(), reason: reason.into() })
}

/// Group size and bits that a Cartesia header speaks of.
fn declared_scheme(metadata: &HashMap<String, String>) -> Option<(u64, u64)> {
    let number = |key: &str| metadata.get(key)?.parse().ok();
    number("quantization_kwargs.group_size").zip(number("quantization_kwargs.bits"))
}

/// An override must name a matrix of the model.
fn check_overrides(config: &Config, path: &Path) -> Result<()> {
    let Some(block) = &config.quantization else {
        return Ok(());
    };
    let slots = slots(config);
    let matrices: std::collections::HashSet<&str> =
        slots.iter().filter(|slot| slot.kind == Kind::Matrix).map(Slot::prefix).collect();
    let unknown = block.overrides.keys().filter(|key| !matrices.contains(key.as_str()));
    let problems: Vec<FieldProblem> = unknown
        .map(|key| FieldProblem {
            field: format!("quantization.{}", printable(key)),
            found: "no matrix of this model".into(),
            expected: "the path of one".into(),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(config::bad(path, problems)) }
}

/// All tensors of all files by name. No two files have the same: the index of shards names one
/// file for each tensor, and was held against all of them.
fn gather(config: &Config, weights: Vec<(Arc<Source>, Header)>) -> (Vec<Arc<Source>>, Found) {
    let (mut sources, mut found) = (Vec::new(), Found::new());
    for (file, (source, header)) in weights.into_iter().enumerate() {
        sources.push(source);
        found.extend(header.tensors.into_iter().map(|t| (t.name.clone(), (file, t))));
    }
    drop_tied_copy(config, &sources, &mut found);
    (sources, found)
}

/// Some tools write a tied head out a second time. That is harmless if it is the same to the bit.
fn drop_tied_copy(config: &Config, sources: &[Arc<Source>], found: &mut Found) {
    let (head, embedding) = ("lm_head.weight", "backbone.embedding.weight");
    let bytes = |name: &str| {
        let (file, stored) = found.get(name)?;
        let bytes = &sources[*file].bytes()[stored.start..stored.start + stored.bytes];
        Some((stored.dtype, &stored.shape, bytes))
    };
    let same = config.tie_embeddings && bytes(head).is_some() && bytes(head) == bytes(embedding);
    if same {
        found.remove(head);
    }
}

fn info(placed: &Placed, sources: &[Arc<Source>]) -> TensorInfo {
    use safetensors::Dtype as D;
    TensorInfo {
        name: placed.name.clone(),
        stored_name: placed.stored.name.clone(),
        file: file_name(&sources[placed.file]),
        // `check` lets only these five through.
        dtype: match placed.stored.dtype {
            D::F16 => Dtype::Float16,
            D::BF16 => Dtype::Bfloat16,
            D::U32 => Dtype::Uint32,
            D::U8 => Dtype::Uint8,
            _ => Dtype::Float32,
        },
        shape: placed.shape.clone(),
        bytes: placed.stored.bytes,
    }
}

fn file_name(source: &Source) -> String {
    source.path.file_name().unwrap_or(source.path.as_os_str()).to_string_lossy().into_owned()
}
