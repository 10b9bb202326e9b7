//! One step of a stage.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use mlx_llamba::kernels::Backend;
use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::error::Exception;
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, DeviceType, memory};

use super::update::{Sum, Updated};
use super::watch::Place;
use super::{AdamW, StageOptions, State, value_and_gradient};
use crate::data::{Position, Windows};
use crate::{Batch, Error, Objective, Parameters, Result};

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
/// The part of a GPU's memory that the gradients of all parts may have to be kept until the end of a step:
/// `1 / GRADIENTS`.
const GRADIENTS: usize = 16;

/// The bytes of new parameters and moments that an update computes before the old ones go.
const AT_ONCE: usize = 256 << 20;
/// Trains one stage: its objective on its windows with its options.
#[derive(Debug)]
pub struct Trainer<'a, O> {
    pub(super) objective: &'a O,
    pub(super) windows: &'a Windows,
    pub(super) options: &'a StageOptions,
    pub(super) name: &'a str,
    pub(super) adamw: AdamW,
    pub(super) backend: Backend,
    /// The parameters that each part trains.
    pub(super) trained: Vec<Vec<String>>,
    pub(super) together: bool,
    /// The gradients of matrices come by columns.
    by_columns: bool,
    pub(super) at_once: usize,
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
        let gpu = matches!(current_device()?, DeviceType::Gpu);
        let together = gpu && {
            let bytes = owners.keys().filter_map(|name| parameters.get(name)).map(Array::nbytes);
            bytes.sum::<usize>() <= memory::memory_limit()? / GRADIENTS
        };
        let at_once = AT_ONCE;
        // The products of GPUs have gradients of their own.
        let by_columns = !gpu;
        Ok(Self {
            objective,
            windows,
            options,
            name,
            adamw,
            backend,
            trained,
            together,
            by_columns,
            at_once,
        })
    }

    /// Updates all parts at the end of a step, without waiting for the device until then, and matrices
    /// of one shape by the same operations; or each part as soon as its gradient is known, in the
    /// memory of one part. The default is the latter, but the former on GPUs whose memory has room for
    /// the gradients of all parts.
    #[must_use]
    pub fn together(self, together: bool) -> Self {
        Self { together, ..self }
    }

    /// Sets the bytes of new parameters and moments that are computed before the old ones go, where parts
    /// are not updated [together](Self::together); 256 MiB by default. Results do not depend on it.
    #[must_use]
    pub fn at_once(self, bytes: usize) -> Self {
        Self { at_once: bytes, ..self }
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
        self.step_on(state, &mut Begun::default(), false)
    }

    /// [`step`](Self::step) in a sequence of steps of one state. Where parts are updated
    /// [together](Self::together) and there will be `more` steps, the device gets the work of the next one
    /// before the host waits for this one: `begun` keeps it in between. Results are those of single steps,
    /// to the bit.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_on(&self, state: &mut State, begun: &mut Begun, more: bool) -> Result<Step> {
        let started = Instant::now();
        let options = self.options;
        let lr = options.lr * options.schedule().at(state.progress.step);
        let at_once = (!self.together).then_some(lr);
        let Gradients { sums, mut updated, position } = match begun.0.take() {
            Some(gradients) => gradients,
            None => self.gradients(state, at_once)?,
        };
        state.progress.position = position;
        if self.together {
            updated.extend(self.update(sums, lr, state)?);
            if more {
                begun.0 = Some(self.gradients(state, None)?);
            }
        }
        let (mut losses, mut squares) = (Vec::new(), 0.0);
        for Updated { part, loss, norm } in updated {
            // Any operation here would come after the work of the next step.
            let scalar = |array: &Array| {
                array.try_item_exact::<f32>().map_err(|e| Exception::custom(e.to_string()))
            };
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

    /// Computes the gradients of the next batch. With a learning rate each part is updated as soon as its
    /// own are known; without one the device may still compute them afterwards.
    fn gradients(&self, state: &mut State, lr: Option<f64>) -> Result<Gradients> {
        let options = self.options;
        let micro = if options.micro_batch == 0 { options.batch } else { options.micro_batch };
        let mut position = state.progress.position;
        let mut batches = Vec::new();
        let mut left = options.batch;
        while left > 0 {
            let rows = left.min(micro);
            left -= rows;
            let (batch, next) = self.windows.batch(position, rows)?;
            position = next;
            batches.push(batch);
        }
        let count = |batch: &Batch| self.objective.positions(batch);
        let positions: usize = batches.iter().map(count).sum();
        let mut sums: Vec<Option<Sum>> = self.trained.iter().map(|_| None).collect();
        let mut updated = Vec::new();
        let mut begun = VecDeque::new();
        let mut left = batches.len();
        for batch in batches {
            left -= 1;
            let share = count(&batch) as f32 / positions.max(1) as f32;
            let targets = self.objective.targets(&batch)?;
            for (part, names) in self.trained.iter().enumerate() {
                if names.is_empty() {
                    continue;
                }
                let parameters = &state.parameters;
                let (loss, gradients) =
                    value_and_gradient(self.objective, part, names, parameters, &batch, &targets)?;
                let old = sums[part].take();
                let sum = Sum::add(old, loss, gradients, share, self.by_columns)?;
                match lr {
                    Some(lr) if left == 0 => {
                        updated.extend(self.update(vec![(part, sum)], lr, state)?);
                        continue;
                    }
                    Some(_) => eval(sum.arrays())?,
                    None => {
                        // The host prepares a part while the device computes the one before it; the
                        // activations of both are in memory.
                        async_eval(sum.arrays())?;
                        begun.push_back(sum.loss.clone());
                        if begun.len() > 1 {
                            eval(begun.pop_front().iter())?;
                        }
                    }
                }
                sums[part] = Some(sum);
            }
        }
        let sums = sums.into_iter().enumerate().filter_map(|(part, sum)| Some((part, sum?)));
        Ok(Gradients { sums: sums.collect(), updated, position })
    }
}

/// The beginning of a step of [`Trainer::step_on`], if there is one.
#[derive(Debug, Default)]
pub struct Begun(Option<Gradients>);

/// The gradients of a batch.
#[derive(Debug)]
struct Gradients {
    /// Those of parts that have not been updated yet.
    sums: Vec<(usize, Sum)>,
    updated: Vec<Updated>,
    /// The position in the text after the batch.
    position: Position,
}

/// True if one of `patterns` matches the name of a parameter.
pub(super) fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| mlx_llamba::names::matches(pattern, name))
}
