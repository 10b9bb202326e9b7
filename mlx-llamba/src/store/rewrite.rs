//! Makes a checkpoint out of another, a few rows of a tensor at a time.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use mlx_llamba_kernels::{Quantized, Scheme};
use mlx_rs::{Array, Device, with_device};
use safetensors::Dtype;

use super::card::card;
use super::{OnProgress, Progress};
use crate::checkpoint::{Checkpoint, Kind, Slot, slots};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::scan::Scan;
use crate::files::{COMPANIONS, Output, Planned, WeightFiles};

/// Bytes of one piece of work as float32: what a rewrite holds in memory, some few times over.
const TILE: usize = 16 << 20;

/// A tensor of the output, and where it comes from.
pub(crate) struct Unit {
    pub(crate) slot: Slot,
    /// How it is to be quantized; `None` leaves it dense.
    pub(crate) scheme: Option<Scheme>,
    /// Dtype of a dense tensor, and of the values that are quantized.
    pub(crate) dtype: Dtype,
    /// Rows of tensors of the source that make up its rows, one after the other.
    pub(crate) pieces: Vec<(String, Range<usize>)>,
}

/// All that is to be written.
pub(crate) struct Job<'a> {
    pub(crate) source: &'a Checkpoint,
    pub(crate) config: Config,
    pub(crate) units: Vec<Unit>,
    pub(crate) output: &'a Path,
    pub(crate) overwrite: bool,
    /// Largest file.
    pub(crate) shard_bytes: usize,
    /// For the model card: "Quantized from", "Converted from".
    pub(crate) made_from: &'static str,
    /// The framework named in the headers.
    pub(crate) format: &'static str,
}

/// Where each tensor of `config` comes from in `source`, kept as it is wherever that is possible.
pub(crate) fn units(source: &Checkpoint, config: &Config) -> Vec<Unit> {
    let rows_of = |name: &str| source.info(name).map_or(0, |info| info.shape[0]);
    slots(config)
        .into_iter()
        .map(|slot| {
            let rows = slot.shape[0];
            let part = slot.name.rsplit_once("mixer.").map_or("", |(_, part)| part);
            let sibling =
                |name: &str| slot.name.replace("A_log_proj", "in_proj").replace("in_proj", name);
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
                    let (main, tail) = (slot.name.clone(), sibling("A_log_proj"));
                    let (first, last) = (rows_of(&main), rows_of(&tail));
                    vec![(main, 0..first), (tail, 0..last)]
                }
                _ => vec![(slot.name.clone(), 0..rows)],
            };
            let prefix = pieces[0].0.strip_suffix(".weight").unwrap_or_default();
            let scheme = source.scheme(prefix).filter(|_| pieces.len() == 1);
            let scheme = scheme.filter(|_| slot.kind == Kind::Matrix);
            let dtype = float(source, &pieces[0].0);
            Unit { slot, scheme, dtype, pieces }
        })
        .collect()
}

/// The float dtype of a tensor's values: its own, or that of the scales it is coded with.
pub(crate) fn float(source: &Checkpoint, name: &str) -> Dtype {
    let scales = format!("{}.scales", name.strip_suffix(".weight").unwrap_or(name));
    let of = |name: &str| source.stored_dtype(name).filter(|d| *d != Dtype::U8 && *d != Dtype::U32);
    of(&scales).or_else(|| of(name)).unwrap_or(Dtype::BF16)
}

impl Job<'_> {
    /// Writes everything under a hidden name, opens it as a check, and gives it its own name.
    pub(crate) fn run(self, on_progress: OnProgress<'_>) -> Result<PathBuf> {
        let output = Output::create(self.output, self.overwrite)?;
        let planned = self.units.iter().flat_map(|unit| self.plan(unit)).collect();
        let mut files =
            WeightFiles::create(output.directory(), planned, self.format, self.shard_bytes)?;
        let total = self.units.iter().map(|u| u.slot.shape.iter().product::<usize>() as u64).sum();
        let mut done = 0;
        // Not on a GPU: there the last bit of a scale may be another one.
        with_device(Device::cpu(), || {
            for unit in &self.units {
                let mut report = |values: usize| {
                    done += values as u64;
                    let progress = Progress { tensor: &unit.slot.name, done, total };
                    match on_progress(progress) {
                        ControlFlow::Continue(()) => Ok(()),
                        ControlFlow::Break(()) => Err(Error::Interrupted),
                    }
                };
                self.write(unit, &mut files, &mut report)?;
            }
            Ok::<_, Error>(())
        })?;
        let _ = mlx_rs::memory::clear_cache();
        files.finish()?;
        output.write("config.json", format!("{:#}\n", self.config.to_json()))?;
        if let Some(directory) = self.source.directory() {
            for name in COMPANIONS {
                let file = directory.join(name);
                if file.is_file() {
                    output.copy(&file)?;
                }
            }
        }
        for (name, bytes) in self.source.companions() {
            output.write(name, bytes)?;
        }
        let written = Checkpoint::open(output.directory())?;
        output.write("README.md", card(&self, &written, written.bits_per_weight()))?;
        output.publish()
    }

    /// True if the packed values are taken over as they are.
    fn keeps(&self, unit: &Unit) -> bool {
        match unit.pieces.as_slice() {
            [(name, _)] if unit.scheme.is_some() => self.scheme_of(name) == unit.scheme,
            _ => false,
        }
    }

    fn scheme_of(&self, name: &str) -> Option<Scheme> {
        self.source.scheme(name.strip_suffix(".weight")?)
    }

    /// Names, dtypes and shapes that a unit is stored as.
    fn plan(&self, unit: &Unit) -> Vec<Planned> {
        let Slot { name, shape, kind } = &unit.slot;
        let planned = |name: String, dtype, shape| Planned { name, dtype, shape };
        let Some(scheme) = unit.scheme else {
            let shape = match (kind, shape.as_slice()) {
                (Kind::Conv, &[c, k]) => vec![c, 1, k],
                _ => shape.clone(),
            };
            return vec![planned(name.clone(), unit.dtype, shape)];
        };
        let (rows, columns, prefix) = (shape[0], shape[1], unit.slot.prefix());
        let words = scheme.packed_columns(columns).unwrap_or(0);
        let groups = vec![rows, columns / scheme.group_size];
        let coded = if scheme.mode.has_biases() { unit.dtype } else { Dtype::U8 };
        let mut parts = vec![
            planned(name.clone(), Dtype::U32, vec![rows, words]),
            planned(format!("{prefix}.scales"), coded, groups.clone()),
        ];
        if scheme.mode.has_biases() {
            parts.push(planned(format!("{prefix}.biases"), coded, groups));
        }
        parts
    }

    fn write(
        &self,
        unit: &Unit,
        files: &mut WeightFiles,
        report: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let columns: usize = unit.slot.shape[1..].iter().product();
        let step = (TILE / 4 / columns).max(1);
        for (name, range) in &unit.pieces {
            for start in range.clone().step_by(step) {
                let rows = start..range.end.min(start + step);
                let values = rows.len() * columns;
                if self.keeps(unit) {
                    for part in ["weight", "scales", "biases"] {
                        let of = |name: &str| {
                            format!("{}.{part}", name.strip_suffix(".weight").unwrap_or(name))
                        };
                        if self.source.contains(&of(name)) {
                            self.copy(&of(name), rows.clone(), &of(&unit.slot.name), files)?;
                        }
                    }
                } else if unit.scheme.is_none()
                    && self.source.stored_dtype(name) == Some(unit.dtype)
                {
                    self.copy(name, rows, &unit.slot.name, files)?;
                } else {
                    self.compute(unit, name, rows, files)?;
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
        let Some(bytes) = self.source.row_bytes(name, rows) else {
            return Ok(());
        };
        if let Some(dtype) = self.source.stored_dtype(name) {
            let mut scan = Scan::new(dtype, 0);
            scan.feed(bytes);
            scan.warn(self.source.path(), name);
        }
        files.append(to, bytes)?;
        self.source.release(bytes);
        Ok(())
    }

    /// Casts, dequantizes or quantizes rows.
    fn compute(
        &self,
        unit: &Unit,
        name: &str,
        rows: Range<usize>,
        files: &mut WeightFiles,
    ) -> Result<()> {
        let prefix = name.strip_suffix(".weight").unwrap_or(name);
        let fail = |source| Error::Quantization { tensor: name.to_owned(), source };
        let part = |suffix: &str| self.source.rows(&format!("{prefix}.{suffix}"), rows.clone());
        let dtype = mlx_dtype(unit.dtype);
        let dense = match self.scheme_of(name) {
            None => self.source.rows(name, rows.clone())?.as_dtype(dtype)?,
            Some(scheme) => Quantized {
                weight: part("weight")?,
                scales: part("scales")?,
                biases: if scheme.mode.has_biases() { Some(part("biases")?) } else { None },
                scheme,
            }
            .dequantize(dtype)
            .map_err(fail)?,
        };
        let Some(scheme) = unit.scheme else {
            return append(files, &unit.slot.name, &dense);
        };
        let own = unit.slot.prefix();
        let quantized = Quantized::quantize(&dense, scheme).map_err(fail)?;
        append(files, &unit.slot.name, &quantized.weight)?;
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

fn mlx_dtype(dtype: Dtype) -> mlx_rs::Dtype {
    match dtype {
        Dtype::F16 => mlx_rs::Dtype::Float16,
        Dtype::BF16 => mlx_rs::Dtype::Bfloat16,
        _ => mlx_rs::Dtype::Float32,
    }
}
