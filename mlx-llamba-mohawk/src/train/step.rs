//! One step of a stage.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use mlx_llamba::kernels::Backend;
use mlx_llamba_kernels::AdamWResult;
use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, DeviceType, memory};
use serde::{Deserialize, Serialize};

use super::muon::{self, Matrix};
use super::watch::Place;
use super::{AdamW, Moments, Schedule, State, clip_factor, global_norm, value_and_gradient};
use crate::data::{Position, Windows};
use crate::stages::Compared;
use crate::{Error, Objective, Parameters, Result};

/// Options of a stage; a table of a recipe.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageOptions {
    /// The number of tokens to read.
    pub tokens: u64,
    /// Learning rate of the stable part.
    pub lr: f64,
    /// The number of windows of a step.
    pub batch: usize,
    /// The number of windows in memory at a time, over which the gradients of a step are summed; 0:
    /// all.
    #[serde(default)]
    pub micro_batch: usize,
    /// The number of tokens of a window.
    pub length: usize,
    /// The fraction of steps in which the learning rate rises.
    #[serde(default = "tenth")]
    pub warmup: f64,
    /// The fraction of steps in which it falls.
    #[serde(default = "tenth")]
    pub decay: f64,
    /// Decay of matrices: norms, biases and D have none.
    #[serde(default = "tenth")]
    pub weight_decay: f64,
    /// Decay of the mean gradient.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// The largest norm of a part's gradient, to which larger ones are clipped; 0: no clipping.
    #[serde(default = "one")]
    pub clip: f64,
    /// A loss above this multiple of the median of the previous ones ends the run.
    #[serde(default = "ten")]
    pub explosion: f64,
    /// Stage 1: the quantity that is compared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compared: Compared,
    /// Trains the blocks' norms too. For stages 1 and 2; later ones train everything.
    #[serde(default)]
    pub norms: bool,
    /// Trains the MLPs too. For stage 2.
    #[serde(default)]
    pub mlp: bool,
    /// The weight of the true next token in the loss, 0 to 1; the rest is for the teacher's
    /// predictions. For stage 3.
    #[serde(default)]
    pub next_token: f64,
    /// The divisor of both logits before they are compared. For stage 3.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Recomputes the activations of a block for its gradient, instead of keeping them: less
    /// memory, a third more work. For stage 3; the others train layer by layer.
    #[serde(default)]
    pub recompute: bool,
    /// Frozen parameters: names, or their last parts, with `*` for any text.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Factors of the learning rate by patterns of names, such as for copied parameters, which need
    /// little change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lr_factors: BTreeMap<String, f64>,
    /// Matrices that Muon trains instead of AdamW, as patterns like [`freeze`](Self::freeze).
    #[serde(default)]
    pub muon: Vec<String>,
    /// The number of rows that Muon treats as one matrix, such as those of a head; 0: all rows. One
    /// number, or a table of numbers by pattern, as in [`lr_factors`](Self::lr_factors).
    #[serde(default)]
    pub muon_rows: MuonRows,
}

/// The rows of Muon's blocks, for all matrices or by patterns of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MuonRows {
    /// For all matrices.
    All(usize),
    /// By pattern; other matrices are a single block.
    By(BTreeMap<String, usize>),
}

impl Default for MuonRows {
    fn default() -> Self {
        Self::All(0)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn tenth() -> f64 {
    0.1
}

fn beta1() -> f64 {
    AdamW::default().beta1
}

fn beta2() -> f64 {
    AdamW::default().beta2
}

fn one() -> f64 {
    1.0
}

fn ten() -> f64 {
    10.0
}

impl StageOptions {
    /// The number of steps that read at least `tokens` tokens.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil(self.tokens_per_step().max(1))
    }

    /// The number of tokens that a step reads.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch * self.length) as u64
    }

    /// The learning rate's schedule.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule { steps: self.steps(), warmup: self.warmup, decay: self.decay }
    }

    /// The factor of the learning rate for the parameter `name`: the product of all
    /// [`lr_factors`](Self::lr_factors) whose patterns match.
    #[must_use]
    pub fn lr_factor(&self, name: &str) -> f64 {
        let fitting =
            self.lr_factors.iter().filter(|(pattern, _)| mlx_llamba::names::matches(pattern, name));
        fitting.map(|(_, factor)| factor).product()
    }

    /// The rows of Muon's blocks of the matrix `name`; 0: all.
    #[must_use]
    pub fn muon_rows(&self, name: &str) -> usize {
        match &self.muon_rows {
            MuonRows::All(rows) => *rows,
            MuonRows::By(patterns) => {
                let fitting =
                    patterns.iter().find(|(pattern, _)| mlx_llamba::names::matches(pattern, name));
                fitting.map_or(0, |(_, rows)| *rows)
            }
        }
    }

    /// Returns the first field with an invalid value: its name and the allowed values.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let fine = |value: f64| value.is_finite() && value >= 0.0;
        let checks = [
            ("lr", self.lr.is_finite() && self.lr > 0.0, "a number above 0"),
            ("batch", (1..=1 << 20).contains(&self.batch), "a number from 1 to 1048576"),
            ("length", (2..=1 << 20).contains(&self.length), "a number from 2 to 1048576"),
            ("warmup", part(self.warmup), "a number from 0 to 1"),
            ("decay", part(self.decay), "a number from 0 to 1"),
            ("decay", self.warmup + self.decay <= 1.0, "at most 1 together with warmup"),
            ("weight_decay", fine(self.weight_decay), "a number, 0 or above"),
            ("beta1", (0.0..1.0).contains(&self.beta1), "a number from 0 to below 1"),
            ("beta2", (0.0..1.0).contains(&self.beta2), "a number from 0 to below 1"),
            ("clip", fine(self.clip), "a number, 0 or above"),
            ("next_token", part(self.next_token), "a number from 0 to 1"),
            ("temperature", self.temperature.is_finite() && self.temperature > 0.0, "above 0"),
            ("explosion", self.explosion > 1.0, "a number above 1"),
            ("lr_factors", self.lr_factors.values().all(|&f| fine(f)), "numbers, 0 or above"),
        ];
        checks.iter().find(|(_, sound, _)| !sound).map(|&(field, _, expected)| (field, expected))
    }
}

/// An estimate of the memory and time that training needs on this machine.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageCost {
    /// Bytes of MLX arrays at the peak: models, gradients, the optimizer's moments, activations.
    pub bytes: u64,
    /// The time in seconds.
    pub seconds: f64,
}

/// The bytes that the windows of a rehearsal on a GPU may take.
const REHEARSED: u64 = 4 << 30;

/// The losses and figures of a step.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The loss of each part before the step.
    pub losses: Vec<f32>,
    /// The norm of all gradients before clipping.
    pub norm: f64,
    /// The learning rate.
    pub lr: f64,
    /// The number of tokens read.
    pub tokens: u64,
    /// The time in seconds.
    pub seconds: f64,
}

impl Step {
    /// Returns the mean over the parts.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let sum: f64 = self.losses.iter().copied().map(f64::from).sum();
        sum / self.losses.len().max(1) as f64
    }
}

/// The part of a GPU's memory that the gradients of all parts may have to be kept until the end of a step,
/// and that of the matrices that Muon changes at once, which need a few times their size: `1 / GRADIENTS`
/// and `1 / ALIKE`.
const GRADIENTS: usize = 16;
const ALIKE: usize = 256;

/// Trains one stage: its objective on its windows with its options.
#[derive(Debug)]
pub struct Trainer<'a, O> {
    objective: &'a O,
    windows: &'a Windows,
    options: &'a StageOptions,
    name: &'a str,
    adamw: AdamW,
    backend: Backend,
    /// The parameters that each part trains.
    trained: Vec<Vec<String>>,
    together: bool,
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// Makes a trainer of the parameters that the objective names and the options do not freeze.
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::TrainedTwice`] if two parts train the same one,
    /// [`Error::NothingToTrain`].
    pub fn new(
        name: &'a str,
        objective: &'a O,
        windows: &'a Windows,
        options: &'a StageOptions,
        parameters: &Parameters,
    ) -> Result<Self> {
        let adamw = AdamW {
            beta1: options.beta1,
            beta2: options.beta2,
            weight_decay: options.weight_decay,
            ..AdamW::default()
        };
        let mut trained = Vec::new();
        let mut owners = BTreeMap::new();
        for part in 0..objective.parts() {
            let mut names = objective.trains(part);
            names.retain(|name| !matches_any(&options.freeze, name));
            for name in &names {
                if !parameters.contains_key(name) {
                    return Err(Error::unknown(name));
                }
                if owners.insert(name.clone(), part).is_some() {
                    return Err(Error::TrainedTwice { name: name.clone() });
                }
            }
            trained.push(names);
        }
        if owners.is_empty() {
            return Err(Error::NothingToTrain { stage: name.to_owned() });
        }
        let backend = Backend::with_gradients()?;
        let together = matches!(current_device()?, DeviceType::Gpu) && {
            let bytes = owners.keys().filter_map(|name| parameters.get(name)).map(Array::nbytes);
            bytes.sum::<usize>() <= memory::memory_limit()? / GRADIENTS
        };
        Ok(Self { objective, windows, options, name, adamw, backend, trained, together })
    }

    /// Updates all parts at the end of a step, without waiting for the device until then, and matrices
    /// of one shape by the same operations; or each part as soon as its gradient is known, in the
    /// memory of one part. The default is the latter, but the former on GPUs whose memory has room for
    /// the gradients of all parts.
    #[must_use]
    pub fn together(self, together: bool) -> Self {
        Self { together, ..self }
    }

    /// Estimates the memory and time of a step from the gradients of one window, on GPUs the time from
    /// as many as fit into 4 GiB; changes nothing.
    ///
    /// The estimate's `seconds` are those of one step.
    ///
    /// # Errors
    /// Those of the objective.
    pub fn rehearse(&self, state: &State) -> Result<StageCost> {
        let bytes = |arrays: &[Array]| arrays.iter().map(|a| a.nbytes() as u64).sum::<u64>();
        let options = self.options;
        let base = memory::active_memory()? as u64;
        // The time, the bytes of all parts' gradients and of the largest part's, and those of
        // everything else.
        let run = |windows: usize| -> Result<(f64, u64, u64, u64)> {
            memory::reset_peak_memory()?;
            let started = Instant::now();
            let (batch, _) = self.windows.batch(Position::default(), windows)?;
            let targets = self.objective.targets(&batch)?;
            let (mut all, mut largest) = (0, 0);
            let parts = self.trained.iter().enumerate();
            for (part, names) in parts.filter(|(_, names)| !names.is_empty()) {
                let parameters = &state.parameters;
                let (loss, gradients) =
                    value_and_gradient(self.objective, part, names, parameters, &batch, &targets)?;
                eval(gradients.iter().chain([&loss]))?;
                (all, largest) = (all + bytes(&gradients), largest.max(bytes(&gradients)));
            }
            let seconds = started.elapsed().as_secs_f64();
            let rest = (memory::peak_memory()? as u64).saturating_sub(base + largest);
            Ok((seconds, all, largest, rest))
        };
        let (mut seconds, all, largest, first) = run(1)?;
        let (mut fixed, mut window) = (0, first);
        let rows = if options.micro_batch == 0 { options.batch } else { options.micro_batch };
        if matches!(current_device()?, DeviceType::Gpu) {
            // The first run compiles kernels, and a window alone does not fill a GPU.
            let windows = (REHEARSED / first.max(1)).clamp(1, rows as u64);
            run(windows as usize)?;
            let (all, _, _, rest) = run(windows as usize)?;
            seconds = all / windows as f64;
            if windows > 1 {
                // Memory that does not grow with the windows, such as weights in 16 bits, counts once.
                window = (rest.saturating_sub(first) / (windows - 1)).min(first);
                fixed = first - window;
            }
        }
        // The gradients of all parts are kept until the last micro-batch; an update needs the old
        // and the new parameters and moments of one part, or of all together, whose windows overlap.
        // Moments of a resumed stage are in `base` already.
        let changed = if self.together { all } else { largest };
        let gradients = if rows < options.batch { all } else { changed };
        let moments = if state.moments.is_empty() { 2 * all } else { 0 };
        let overlap = if self.together && self.trained.len() > 1 { 2 } else { 1 };
        let windows = overlap * (fixed + window * rows as u64);
        let bytes = base + moments + gradients + windows + 3 * changed;
        Ok(StageCost { bytes, seconds: seconds * options.batch as f64 })
    }

    /// Reads the next batch and updates the parameters.
    ///
    /// [By default](Self::together) each part is evaluated before the next one begins, and is updated
    /// with the last of its micro-batches: activations of one part and one micro-batch are in memory
    /// at a time.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::Exploded`], and errors of the objective. Some parts may have
    /// been updated already, so the state must not be saved.
    pub fn step(&self, state: &mut State) -> Result<Step> {
        let started = Instant::now();
        let options = self.options;
        let lr = options.lr * options.schedule().at(state.progress.step);
        let micro = if options.micro_batch == 0 { options.batch } else { options.micro_batch };
        let mut sums: Vec<Option<Sum>> = self.trained.iter().map(|_| None).collect();
        let mut results = Vec::new();
        let mut begun = VecDeque::new();
        let mut left = options.batch;
        while left > 0 {
            let rows = left.min(micro);
            left -= rows;
            let (batch, position) = self.windows.batch(state.progress.position, rows)?;
            state.progress.position = position;
            let targets = self.objective.targets(&batch)?;
            for (part, names) in self.trained.iter().enumerate() {
                if names.is_empty() {
                    continue;
                }
                let parameters = &state.parameters;
                let (loss, gradients) =
                    value_and_gradient(self.objective, part, names, parameters, &batch, &targets)?;
                let share = rows as f32 / options.batch as f32;
                let sum = Sum::add(sums[part].take(), loss, gradients, share)?;
                if left == 0 && !self.together {
                    results.extend(self.update(vec![(part, sum)], lr, state)?);
                    continue;
                }
                if self.together {
                    // The host prepares a part while the device computes the one before it; the
                    // activations of both are in memory.
                    async_eval(sum.arrays())?;
                    begun.push_back(sum.loss.clone());
                    if begun.len() > 1 {
                        eval(begun.pop_front().iter())?;
                    }
                } else {
                    eval(sum.arrays())?;
                }
                sums[part] = Some(sum);
            }
        }
        if self.together {
            let sums = sums.into_iter().enumerate();
            let sums = sums.filter_map(|(part, sum)| Some((part, sum?)));
            results.extend(self.update(sums.collect(), lr, state)?);
        }
        let (mut losses, mut squares) = (Vec::new(), 0.0);
        for Updated { part, loss, norm } in results {
            let scalar = |array: &Array| mlx_llamba::mlx::floats(array).map(|values| values[0]);
            let (loss, norm) = (scalar(&loss)?, scalar(&norm)?);
            let place = Place {
                stage: self.name,
                step: state.progress.step + 1,
                part,
                parameter: self.trained[part].first().map_or("", String::as_str),
            };
            state.progress.watch.check(place, loss, norm, options.explosion)?;
            losses.push(loss);
            squares += f64::from(norm).powi(2);
        }
        state.progress.step += 1;
        state.progress.total_steps += 1;
        state.progress.tokens += options.tokens_per_step();
        Ok(Step {
            losses,
            norm: squares.sqrt(),
            lr,
            tokens: options.tokens_per_step(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Applies the gradients of parts. Returns their losses and the norms of their gradients.
    fn update(&self, sums: Vec<(usize, Sum)>, lr: f64, state: &mut State) -> Result<Vec<Updated>> {
        let options = self.options;
        let clip = Some(options.clip).filter(|&clip| clip > 0.0);
        let step = state.progress.step + 1;
        let mut results = Vec::new();
        let mut changed = Vec::new();
        // Matrices that Muon changes alike, by their shape, the rows of a block and the learning rate.
        let mut alike: BTreeMap<_, (Vec<&String>, Vec<Matrix>)> = BTreeMap::new();
        for (part, sum) in sums {
            let norm = global_norm(self.backend, &sum.gradients)?;
            let factor = clip_factor(&norm, clip)?;
            for (name, gradient) in self.trained[part].iter().zip(&sum.gradients) {
                let parameter = state.parameters.get(name).ok_or_else(|| Error::unknown(name))?;
                let old = state.moments.get(name);
                let time = (step, lr * options.lr_factor(name));
                let muon = parameter.ndim() == 2 && matches_any(&options.muon, name);
                let ahead = muon.then_some(muon::MOMENTUM);
                let gradient = (gradient, &factor);
                let AdamWResult { parameter: new, m, v, ahead } =
                    self.adamw.update(self.backend, parameter, gradient, old, time, ahead)?;
                changed.extend([m.clone(), v.clone()]);
                state.moments.insert(name.clone(), Moments { m, v });
                let Some(ahead) = ahead else {
                    changed.push(new.clone());
                    state.parameters.insert(name.clone(), new);
                    continue;
                };
                let matrix = Matrix { parameter: parameter.clone(), ahead, others: new };
                let rows = options.muon_rows(name);
                let (r, c) = (parameter.dim(0), parameter.dim(1));
                let (names, matrices) = alike.entry((r, c, rows, time.1.to_bits())).or_default();
                names.push(name);
                matrices.push(matrix);
            }
            results.push(Updated { part, loss: sum.loss, norm });
        }
        let at_once = memory::memory_limit()? / ALIKE;
        for ((r, c, rows, lr), (names, matrices)) in alike {
            let bytes = 4 * r as usize * c as usize;
            let at_once = if self.together { (at_once / bytes.max(1)).max(1) } else { 1 };
            for (names, matrices) in names.chunks(at_once).zip(matrices.chunks(at_once)) {
                let new = muon::step(matrices, rows, f64::from_bits(lr))?;
                for (name, new) in names.iter().zip(new) {
                    changed.push(new.clone());
                    state.parameters.insert((*name).clone(), new);
                }
            }
        }
        let all = changed.iter().chain(results.iter().flat_map(|r| [&r.loss, &r.norm]));
        if self.together {
            async_eval(all)?
        } else {
            eval(all)?
        }
        Ok(results)
    }
}

/// The loss of a part, and the norm of its gradient before clipping.
struct Updated {
    part: usize,
    loss: Array,
    norm: Array,
}

/// The weighted sums of the losses and gradients of the micro-batches so far.
struct Sum {
    loss: Array,
    gradients: Vec<Array>,
}

impl Sum {
    fn add(old: Option<Self>, loss: Array, gradients: Vec<Array>, share: f32) -> Result<Self> {
        // Kernels read rows one after the other; the gradients of matrices come by columns, and would be
        // turned for every kernel.
        let scaled = |array: Array| -> Result<Array> {
            let array =
                if share == 1.0 { array } else { array.multiply(Array::from_f32(share))? };
            Ok(array.contiguous()?)
        };
        let loss = scaled(loss)?;
        let gradients = gradients.into_iter().map(scaled).collect::<Result<Vec<_>>>()?;
        let Some(old) = old else {
            return Ok(Self { loss, gradients });
        };
        let both = old.gradients.iter().zip(&gradients);
        Ok(Self {
            loss: old.loss.add(loss)?,
            gradients: both.map(|(a, b)| Ok(a.add(b)?)).collect::<Result<_>>()?,
        })
    }

    fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.gradients.iter().chain([&self.loss])
    }
}

/// True if one of `patterns` matches the name of a parameter.
fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| mlx_llamba::names::matches(pattern, name))
}
