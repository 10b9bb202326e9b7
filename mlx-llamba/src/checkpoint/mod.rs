//! Checkpoints in every layout. Opening one reads headers only; tensors are read one by one.

mod cartesia;
mod check;
mod fingerprint;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlx_llamba_kernels::Scheme;
use mlx_rs::Array;

use crate::config::{self, Config, Quantization, TensorSpec, specs};
use crate::error::{Error, FieldProblem, Result, TensorProblem, printable};
use crate::files::header::{self, Header};
use crate::files::{Source, StoredTensor, TokenizerFiles, open};
use check::{Checked, Found};

/// The layout of a checkpoint.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The published PyTorch layout: `config.json`, and dense tensors in one or more files.
    PyTorch,
    /// Cartesia's MLX layout: one file whose header holds the configuration.
    CartesiaMlx,
    /// This library's layout: PyTorch's names, and MLX's arrays for quantized matrices.
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

/// A checkpoint whose configuration and headers are valid: it has every tensor that the
/// configuration requires, with the right shape and dtype, and no other.
///
/// Weight files are mapped into memory. A tensor is read when its array is evaluated, and its pages
/// are released after that. A file must not be shortened while a checkpoint, or an array that was
/// not evaluated yet, depends on it.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    layout: Layout,
    config: Config,
    sources: Vec<Arc<Source>>,
    /// By canonical name, in the order in which a forward pass uses them.
    tensors: Vec<(String, StoredTensor)>,
    by_name: HashMap<String, usize>,
    schemes: BTreeMap<String, Scheme>,
    /// Of a checkpoint that is part of the program.
    tokenizer_files: TokenizerFiles,
}

impl Checkpoint {
    /// Opens a directory with `config.json` and one or more weight files, a directory with a
    /// Cartesia MLX file, or such a file. Reads headers only.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotACheckpoint`], [`Error::Json`], [`Error::Header`];
    /// [`Error::Config`], [`Error::Index`] and [`Error::Tensors`] list every problem.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let files = open::open(path)?;
        Self::build(path, files)
    }

    /// Opens a checkpoint that is part of the program: `config` is the text of a `config.json`,
    /// `weights` a safetensors file. Messages use `name` in place of a path.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn from_static(name: &str, config: &'static str, weights: &'static [u8]) -> Result<Self> {
        let source = Arc::new(Source::from_static(name, weights));
        let header = header::read(&source)?;
        let config = Some((PathBuf::from(name), config.to_owned()));
        let files = open::Files { config, weights: vec![(source, header)] };
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
                let shapes = header.tensors.iter().map(|t| (t.name(), t.shape())).collect();
                let config = Config::from_metadata(file.path(), &header.metadata, &shapes)?;
                (Layout::CartesiaMlx, config, file.path().to_owned())
            }
        };
        check_overrides(&config, &config_path)?;
        let (sources, found) = gather(&config, weights);
        let Checked { tensors, schemes } = check::check(&config, layout, found)
            .map_err(|problems| wrong_tensors(path, specs(&config).len(), problems))?;
        let mut checkpoint = Self {
            path: path.to_owned(),
            layout,
            config,
            by_name: tensors.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect(),
            sources,
            tensors,
            schemes,
            tokenizer_files: TokenizerFiles::default(),
        };
        if layout == Layout::CartesiaMlx {
            checkpoint.warn_of_stale_scheme(declared);
            checkpoint.config.quantization = Quantization::of(&checkpoint.schemes);
        }
        Ok(checkpoint)
    }

    /// The configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The layout in which it is stored.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A lazy array of the tensor of this canonical name, read when it is first evaluated. Of a
    /// quantized matrix, `.weight` is the packed one. If the tensor holds NaN or infinity, a warning
    /// names it then.
    ///
    /// # Errors
    /// [`Error::Tensors`] if the model has no such tensor, [`Error::Mlx`] if MLX refuses it.
    pub fn array(&self, name: &str) -> Result<Array> {
        self.required(name)?.array()
    }

    /// Canonical names and tensors, in the order in which a forward pass uses them. Names are
    /// the PyTorch layout's, with `.scales` and `.biases` beside a quantized `.weight`; the
    /// convolution's shape is (channels, width) in every layout.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The scheme of a matrix, `None` if it is dense. `prefix` is its canonical name without
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
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i].1)
    }

    /// The weight files with their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.sources.iter().map(|source| (source.path(), source.bytes().len()))
    }

    /// The number of values in the model, before quantized matrices are packed.
    pub fn parameters(&self) -> u64 {
        specs(&self.config).iter().map(|spec| spec.len() as u64).sum()
    }

    /// The size of all tensors in bytes.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors().map(|(_, tensor)| tensor.bytes().len() as u64).sum()
    }

    /// Bits per weight on average, scales and biases included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.tensor_bytes() as f64 / self.parameters() as f64
    }

    /// A hash over names, shapes, dtypes and three samples of each tensor. Equal arrays have the same
    /// one in every layout, and in practice no others have.
    pub fn fingerprint(&self) -> String {
        fingerprint::fingerprint(self)
    }

    /// The files beside the weights: those in the same directory, or those that are part of the
    /// program.
    pub(crate) fn tokenizer_files(&self) -> Result<TokenizerFiles> {
        let file = self.sources.first().filter(|source| source.is_file());
        match file.and_then(|file| file.path().parent()) {
            Some(directory) => TokenizerFiles::of_model(directory),
            None => Ok(self.tokenizer_files.clone()),
        }
    }

    /// The same checkpoint with these files, as part of the program.
    #[cfg(feature = "embedded-model")]
    pub(crate) fn with_tokenizer_files(self, tokenizer_files: TokenizerFiles) -> Self {
        Self { tokenizer_files, ..self }
    }

    /// The tensor of this canonical name, which the model must have.
    pub(crate) fn required(&self, name: &str) -> Result<&StoredTensor> {
        self.tensor(name).ok_or_else(|| {
            let problems = vec![TensorProblem::Unknown { name: name.to_owned() }];
            Error::Tensors { path: self.path.clone(), problems }
        })
    }

    fn warn_of_stale_scheme(&self, declared: Option<(u64, u64)>) {
        let Some((group_size, bits)) = declared else {
            return;
        };
        let differs = |s: &&Scheme| (s.group_size as u64, s.bits as u64) != (group_size, bits);
        if let Some(scheme) = self.schemes.values().find(differs) {
            log::warn!(
                "{}: the header says {bits} bits in groups of {group_size}, but the tensors have {} \
                 in groups of {}, which are used",
                self.path.display(),
                scheme.bits,
                scheme.group_size
            );
        }
    }
}

/// The error of a checkpoint with these problems: one sentence if most of `needed` tensors are missing
/// and others are there.
fn wrong_tensors(path: &Path, needed: usize, problems: Vec<TensorProblem>) -> Error {
    let found = problems.iter().find_map(|problem| match problem {
        TensorProblem::Unknown { name } => Some(name),
        _ => None,
    });
    let missing = |problem: &&TensorProblem| matches!(problem, TensorProblem::Missing { .. });
    let missing = problems.iter().filter(missing).count();
    match found {
        Some(found) if 2 * missing > needed => {
            let reason = format!(
                "config.json describes a Llamba, but {missing} of its {needed} tensors are missing, and \
                 there are others, such as {found}: the weights are of another model"
            );
            Error::NotACheckpoint { path: path.to_owned(), reason }
        }
        _ => Error::Tensors { path: path.to_owned(), problems },
    }
}

/// The layout of files with a `config.json`: PyTorch's unless something in them is MLX's.
fn own_layout(config: &Config, weights: &[(Arc<Source>, Header)]) -> Layout {
    let mlx = |(_, header): &(_, Header)| header.metadata.get("format").is_some_and(|f| f == "mlx");
    if config.quantization.is_some() || config.split_a_log || weights.iter().any(mlx) {
        Layout::MlxLlamba
    } else {
        Layout::PyTorch
    }
}

/// The file that holds its own configuration, as there is no `config.json`.
fn cartesia_file<'a>(
    path: &Path,
    weights: &'a [(Arc<Source>, Header)],
) -> Result<(&'a Source, &'a Header)> {
    let reason = match weights {
        [(source, header)]
            if header.tensors.iter().any(|t| t.name() == "embedding.encoder.weight")
                || header.metadata.contains_key("_class_") =>
        {
            return Ok((source, header));
        }
        [_] if path.is_file() => {
            "the file is not a Cartesia MLX model; for a model with a config.json, give the directory"
        }
        _ => "there is no config.json, and no file with its own configuration",
    };
    Err(Error::NotACheckpoint { path: path.to_owned(), reason: reason.into() })
}

/// The group size and bits that a Cartesia header declares.
fn declared_scheme(metadata: &HashMap<String, String>) -> Option<(u64, u64)> {
    let number = |key: &str| metadata.get(key)?.parse().ok();
    number("quantization_kwargs.group_size").zip(number("quantization_kwargs.bits"))
}

/// Checks that every override names a matrix of the model.
fn check_overrides(config: &Config, path: &Path) -> Result<()> {
    let Some(block) = &config.quantization else {
        return Ok(());
    };
    let specs = specs(config);
    let matrices: std::collections::HashSet<&str> =
        specs.iter().filter(|spec| spec.is_matrix()).map(TensorSpec::prefix).collect();
    let unknown = block.overrides.keys().filter(|key| !matrices.contains(key.as_str()));
    let problems: Vec<FieldProblem> = unknown
        .map(|key| FieldProblem {
            field: format!("quantization.{}", printable(key)),
            found: "no matrix of this model".into(),
            expected: "the name of a matrix".into(),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(config::bad(path, problems)) }
}

/// The tensors of all files by name. No two files have the same name: the index of shards names
/// one file for each tensor, and every file was checked against it.
fn gather(config: &Config, weights: Vec<(Arc<Source>, Header)>) -> (Vec<Arc<Source>>, Found) {
    let (mut sources, mut found) = (Vec::new(), Found::new());
    for (source, header) in weights {
        sources.push(source);
        found.extend(header.tensors.into_iter().map(|tensor| (tensor.name().to_owned(), tensor)));
    }
    drop_tied_copy(config, &mut found);
    (sources, found)
}

/// Removes a second copy of a tied head, which some tools write, if every bit is the same.
fn drop_tied_copy(config: &Config, found: &mut Found) {
    let head = "lm_head.weight";
    let content = |name: &str| {
        let tensor = found.get(name)?;
        Some((tensor.dtype(), tensor.shape(), tensor.bytes()))
    };
    let copy = content(head).filter(|_| config.tie_embeddings);
    if copy.is_some() && copy == content("backbone.embedding.weight") {
        found.remove(head);
    }
}
