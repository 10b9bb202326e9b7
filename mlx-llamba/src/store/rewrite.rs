//! Writes a checkpoint from another one, a few rows of a tensor at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};

use mlx_llamba_kernels::{Quantized, Scheme};
use mlx_rs::{Array, Device, with_device};
use safetensors::Dtype;

use super::card::card;
use crate::checkpoint::Checkpoint;
use crate::config::{Config, TensorKind, TensorSpec, specs};
use crate::error::{Error, Result};
use crate::files::scan::Scan;
use crate::files::{Output, StoredTensor, TensorHeader, WeightFiles, mlx_dtype};
use crate::progress::{OnProgress, Progress};

/// Size in float32 of the rows that are rewritten at a time; memory holds a few times as much.
const TILE: usize = 16 << 20;

/// A tensor to write, and the rows of the source that it consists of.
pub(crate) struct TensorPlan {
    pub(crate) spec: TensorSpec,
    /// The scheme to quantize it in; `None` for a dense tensor.
    pub(crate) scheme: Option<Scheme>,
    /// Dtype of a dense tensor, or of the values before they are quantized.
    pub(crate) dtype: Dtype,
    /// Tensors of the source, with the range of rows of each.
    pub(crate) pieces: Vec<(String, Range<usize>)>,
}

/// A checkpoint to write.
pub(crate) struct Rewrite<'a> {
    pub(crate) source: &'a Checkpoint,
    pub(crate) config: Config,
    pub(crate) tensors: Vec<TensorPlan>,
    pub(crate) output: &'a Path,
    pub(crate) overwrite: bool,
    /// Largest weight file in bytes.
    pub(crate) shard_bytes: usize,
    /// Origin for the model card: "Quantized from" or "Converted from".
    pub(crate) made_from: &'static str,
    /// The framework to name in the headers.
    pub(crate) format: &'static str,
}

/// Plans every tensor of `config` from those of `source`, unchanged where that is possible.
pub(crate) fn plan(source: &Checkpoint, config: &Config) -> Vec<TensorPlan> {
    let rows_of = |name: &str| source.tensor(name).map_or(0, |tensor| tensor.shape()[0]);
    specs(config)
        .into_iter()
        .map(|spec| {
            let rows = spec.shape[0];
            let part = spec.name.rsplit_once("mixer.").map_or("", |(_, part)| part);
            let sibling =
                |name: &str| spec.name.replace("A_log_proj", "in_proj").replace("in_proj", name);
            let pieces = match part {
                // The A_log rows are the last of in_proj.
                "A_log_proj.weight" | "A_log_proj.bias" if !source.config().split_a_log => {
                    let whole = sibling("in_proj");
                    let end = rows_of(&whole);
                    vec![(whole, end - rows..end)]
                }
                "in_proj.weight" | "in_proj.bias"
                    if source.config().split_a_log && !config.split_a_log =>
                {
                    let (main, tail) = (spec.name.clone(), sibling("A_log_proj"));
                    let (first, last) = (rows_of(&main), rows_of(&tail));
                    vec![(main, 0..first), (tail, 0..last)]
                }
                _ => vec![(spec.name.clone(), 0..rows)],
            };
            let prefix = pieces[0].0.strip_suffix(".weight").unwrap_or_default();
            let scheme = source.scheme(prefix).filter(|_| pieces.len() == 1);
            let scheme = scheme.filter(|_| spec.is_matrix());
            let dtype = float(source, &pieces[0].0);
            TensorPlan { spec, scheme, dtype, pieces }
        })
        .collect()
}

/// The float dtype of a tensor's values: its own, or that of its scales.
fn float(source: &Checkpoint, name: &str) -> Dtype {
    let scales = format!("{}.scales", name.strip_suffix(".weight").unwrap_or(name));
    let stored = |name: &str| source.tensor(name).map(StoredTensor::dtype);
    let of = |name: &str| stored(name).filter(|d| *d != Dtype::U8 && *d != Dtype::U32);
    of(&scales).or_else(|| of(name)).unwrap_or(Dtype::BF16)
}

impl Rewrite<'_> {
    /// Writes everything under a hidden name, opens it as a check, and renames it to the output.
    pub(crate) fn run(self, on_progress: OnProgress<'_>) -> Result<PathBuf> {
        let output = Output::create(self.output, self.overwrite)?;
        let headers = self.tensors.iter().flat_map(headers).collect();
        let mut files =
            WeightFiles::create(output.directory(), headers, self.format, self.shard_bytes)?;
        let total = self.tensors.iter().map(|plan| plan.spec.len() as u64).sum();
        let mut done = 0;
        // Not on a GPU, where the last bit of a scale may differ.
        with_device(Device::cpu(), || {
            for plan in &self.tensors {
                let mut report = |values: usize| {
                    done += values as u64;
                    Progress::new(&plan.spec.name, done, total).tell(on_progress)
                };
                self.write(plan, &mut files, &mut report)?;
            }
            Ok::<_, Error>(())
        })?;
        let _ = mlx_rs::memory::clear_cache();
        files.finish()?;
        output.write("config.json", format!("{:#}\n", self.config.to_json()))?;
        output.write_all(&self.source.tokenizer_files()?)?;
        let written = Checkpoint::open(output.directory())?;
        let card = card(self.made_from, self.source.path(), self.output, &written);
        output.write("README.md", card)?;
        output.publish()
    }

    /// True if the packed values are copied as they are.
    fn keeps(&self, plan: &TensorPlan) -> bool {
        match plan.pieces.as_slice() {
            [(name, _)] if plan.scheme.is_some() => self.scheme_of(name) == plan.scheme,
            _ => false,
        }
    }

    fn scheme_of(&self, name: &str) -> Option<Scheme> {
        self.source.scheme(name.strip_suffix(".weight")?)
    }

    fn write(
        &self,
        plan: &TensorPlan,
        files: &mut WeightFiles,
        report: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let columns: usize = plan.spec.shape[1..].iter().product();
        let step = (TILE / 4 / columns).max(1);
        for (name, range) in &plan.pieces {
            for start in range.clone().step_by(step) {
                let rows = start..range.end.min(start + step);
                let values = rows.len() * columns;
                if self.keeps(plan) {
                    for part in ["weight", "scales", "biases"] {
                        let of = |name: &str| {
                            format!("{}.{part}", name.strip_suffix(".weight").unwrap_or(name))
                        };
                        if self.source.contains(&of(name)) {
                            self.copy(&of(name), rows.clone(), &of(&plan.spec.name), files)?;
                        }
                    }
                } else if plan.scheme.is_none()
                    && self.source.tensor(name).is_some_and(|t| t.dtype() == plan.dtype)
                {
                    self.copy(name, rows, &plan.spec.name, files)?;
                } else {
                    self.compute(plan, name, rows, files)?;
                }
                report(values)?;
            }
        }
        Ok(())
    }

    /// Copies rows as they are stored.
    fn copy(
        &self,
        name: &str,
        rows: Range<usize>,
        to: &str,
        files: &mut WeightFiles,
    ) -> Result<()> {
        let tensor = self.source.required(name)?.rows(rows);
        let mut scan = Scan::new(tensor.dtype(), 0);
        scan.feed(tensor.bytes());
        scan.warn(&tensor);
        files.append(to, tensor.bytes())?;
        tensor.release(0..tensor.bytes().len());
        Ok(())
    }

    /// Casts, dequantizes or quantizes rows.
    fn compute(
        &self,
        plan: &TensorPlan,
        name: &str,
        rows: Range<usize>,
        files: &mut WeightFiles,
    ) -> Result<()> {
        let prefix = name.strip_suffix(".weight").unwrap_or(name);
        let fail = |source| Error::Quantization { tensor: name.to_owned(), source };
        let rows = |name: &str| self.source.required(name)?.rows(rows.clone()).array();
        let part = |suffix: &str| rows(&format!("{prefix}.{suffix}"));
        let dtype = mlx_dtype(plan.dtype).unwrap_or(mlx_rs::Dtype::Float32);
        let dense = match self.scheme_of(name) {
            None => rows(name)?.as_dtype(dtype)?,
            Some(scheme) => Quantized {
                weight: part("weight")?,
                scales: part("scales")?,
                biases: if scheme.mode.has_biases() { Some(part("biases")?) } else { None },
                scheme,
            }
            .dequantize(dtype)
            .map_err(fail)?,
        };
        let Some(scheme) = plan.scheme else {
            return append(files, &plan.spec.name, &dense);
        };
        let own = plan.spec.prefix();
        let quantized = Quantized::quantize(&dense, scheme).map_err(fail)?;
        append(files, &plan.spec.name, &quantized.weight)?;
        append(files, &format!("{own}.scales"), &quantized.scales)?;
        match &quantized.biases {
            Some(biases) => append(files, &format!("{own}.biases"), biases),
            None => Ok(()),
        }
    }
}

/// Evaluates an array and appends its bytes to a tensor.
fn append(files: &mut WeightFiles, name: &str, array: &Array) -> Result<()> {
    let bytes = array.view_dtype(mlx_rs::Dtype::Uint8)?;
    bytes.eval()?;
    let bytes = bytes.try_as_slice::<u8>().map_err(|error| {
        mlx_rs::error::Exception::custom(format!("{name} has no plain bytes: {error}"))
    })?;
    files.append(name, bytes)
}

/// The tensors that a planned one is stored as: itself, or packed values with scales and biases.
fn headers(plan: &TensorPlan) -> Vec<TensorHeader> {
    let TensorSpec { name, shape, kind } = &plan.spec;
    let header = |name: String, dtype, shape| TensorHeader { name, dtype, shape };
    let Some(scheme) = plan.scheme else {
        let shape = match (kind, shape.as_slice()) {
            (TensorKind::Conv, &[c, k]) => vec![c, 1, k],
            _ => shape.clone(),
        };
        return vec![header(name.clone(), plan.dtype, shape)];
    };
    let (rows, columns, prefix) = (shape[0], shape[1], plan.spec.prefix());
    let words = scheme.packed_columns(columns).unwrap_or(0);
    let groups = vec![rows, columns / scheme.group_size];
    let coded = if scheme.mode.has_biases() { plan.dtype } else { Dtype::U8 };
    let mut headers = vec![
        header(name.clone(), Dtype::U32, vec![rows, words]),
        header(format!("{prefix}.scales"), coded, groups.clone()),
    ];
    if scheme.mode.has_biases() {
        headers.push(header(format!("{prefix}.biases"), coded, groups));
    }
    headers
}
