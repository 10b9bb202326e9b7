//! Estimates what the steps of a stage cost on this machine.

use std::time::Instant;

use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, DeviceType, memory};

use super::{State, Trainer, value_and_gradient};
use crate::data::Position;
use crate::{Objective, Result};

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

impl<O: Objective> Trainer<'_, O> {
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
        // The gradients of all parts are kept until the last micro-batch; an update needs the
        // new parameters and moments of some matrices, or of all together, whose windows overlap.
        // Moments of a resumed stage are in `base` already.
        let changed = if self.together { all } else { largest };
        let gradients = if rows < options.batch { all } else { changed };
        let moments = if state.moments.is_empty() { 2 * all } else { 0 };
        let overlap = if self.together && self.trained.len() > 1 { 2 } else { 1 };
        let windows = overlap * (fixed + window * rows as u64);
        let trained = self.trained.iter().flatten().filter_map(|name| state.parameters.get(name));
        let matrix = trained.map(|array| array.nbytes() as u64).max().unwrap_or(0);
        let new = match self.together {
            true => 3 * changed,
            false => (3 * changed).min(3 * matrix + self.at_once as u64),
        };
        let bytes = base + moments + gradients + windows + new;
        Ok(StageCost { bytes, seconds: seconds * options.batch as f64 })
    }
}
