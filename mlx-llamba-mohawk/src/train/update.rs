//! Applies the gradients of a step.

use std::collections::BTreeMap;

use mlx_llamba_kernels::AdamWResult;
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, memory};

use super::muon::{self, Matrix};
use super::step::matches_any;
use super::{Moments, State, Trainer, clip_factor, global_norm};
use crate::{Error, Objective, Result};

/// The part of a GPU's memory that matrices may have that Muon changes at once, which need a few times their
/// size: `1 / ALIKE`.
const ALIKE: usize = 256;

impl<O: Objective> Trainer<'_, O> {
    /// Applies the gradients of parts. Returns their losses and the norms of their gradients.
    pub(super) fn update(
        &self,
        sums: Vec<(usize, Sum)>,
        lr: f64,
        state: &mut State,
    ) -> Result<Vec<Updated>> {
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
            // Each gradient goes with its update.
            for (name, gradient) in self.trained[part].iter().zip(sum.gradients) {
                let parameter = state.parameters.get(name).ok_or_else(|| Error::unknown(name))?;
                let old = state.moments.get(name);
                let time = (step, lr * options.lr_factor(name));
                let muon = parameter.ndim() == 2 && matches_any(&options.muon, name);
                let ahead = muon.then_some(muon::MOMENTUM);
                let gradient = (&gradient, &factor);
                let AdamWResult { parameter: new, m, v, ahead } =
                    self.adamw.update(self.backend, parameter, gradient, old, time, ahead)?;
                changed.extend([m.clone(), v.clone()]);
                state.moments.insert(name.clone(), Moments { m, v });
                self.limit(&mut changed)?;
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
                let new =
                    muon::step(matrices, rows, f64::from_bits(lr), self.objective.precision())?;
                for (name, new) in names.iter().zip(new) {
                    changed.push(new.clone());
                    state.parameters.insert((*name).clone(), new);
                }
                self.limit(&mut changed)?;
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

    /// Evaluates new arrays once they take more than [`at_once`](Self::at_once), unless all parts are updated
    /// together: the old ones are in memory until then.
    fn limit(&self, changed: &mut Vec<Array>) -> Result<()> {
        let bytes: usize = changed.iter().map(Array::nbytes).sum();
        if !self.together && bytes > self.at_once {
            eval(changed.iter())?;
            changed.clear();
        }
        Ok(())
    }
}

/// The loss of a part, and the norm of its gradient before clipping.
#[derive(Debug)]
pub(super) struct Updated {
    pub(super) part: usize,
    pub(super) loss: Array,
    pub(super) norm: Array,
}

/// The weighted sums of the losses and gradients of the micro-batches so far.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) loss: Array,
    gradients: Vec<Array>,
}

impl Sum {
    pub(super) fn add(
        old: Option<Self>,
        loss: Array,
        gradients: Vec<Array>,
        share: f32,
        by_columns: bool,
    ) -> Result<Self> {
        let scaled = |array: Array| -> Result<Array> {
            let array =
                if share == 1.0 { array } else { array.multiply(Array::from_f32(share))? };
            // Kernels read rows one after the other, and would turn such arrays each time.
            if by_columns { Ok(array.contiguous()?) } else { Ok(array) }
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

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.gradients.iter().chain([&self.loss])
    }
}
