//! The recurrent state of a model: constant in size, however long the text.

use mlx_llamba_kernels::MixerState;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use crate::config::Config;
use crate::error::Result;
use crate::files::FloatTensor;
use crate::host;

/// The state of a batch of `b` sequences, one [`MixerState`] per layer.
///
/// A value: a clone shares the arrays, and the forward pass returns a new state instead of changing
/// the old one.
#[derive(Debug, Clone)]
pub struct State {
    layers: Vec<MixerState>,
}

impl State {
    /// Returns the state before the first token.
    pub(crate) fn zeros(config: &Config, b: usize, dtype: Dtype) -> Result<Self> {
        let zeros = MixerState::zeros(b, config.dims(), dtype)?;
        Ok(Self { layers: vec![zeros; config.n_layer] })
    }

    pub(crate) fn from_layers(layers: Vec<MixerState>) -> Self {
        Self { layers }
    }

    /// The inverse of [`arrays`](Self::arrays).
    pub(crate) fn from_arrays(arrays: &[Array]) -> Self {
        let layer = |pair: &[Array]| MixerState { conv: pair[0].clone(), ssm: pair[1].clone() };
        Self { layers: arrays.chunks_exact(2).map(layer).collect() }
    }

    /// The layers in order: `ssm` (b, h, p, n) float32 and `conv` (b, k-1, conv_dim).
    pub fn layers(&self) -> &[MixerState] {
        &self.layers
    }

    /// The number of sequences in the batch.
    pub fn batch(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.ssm.dim(0) as usize)
    }

    /// The size of all arrays in bytes.
    pub fn nbytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// Returns the state of sequence `row` alone.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if there is no such row.
    pub fn row(&self, row: usize) -> Result<Self> {
        let row = row as i32..row as i32 + 1;
        self.map(|array| Ok(array.try_index(row.clone())?.contiguous()?))
    }

    /// Joins the sequences of `states` into one batch, in order.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the states are of different models.
    pub fn stack(states: &[Self]) -> Result<Self> {
        let layer = |i: usize| -> Result<MixerState> {
            let all = |pick: fn(&MixerState) -> &Array| -> Result<Array> {
                let arrays: Vec<&Array> =
                    states.iter().filter_map(|s| s.layers.get(i)).map(pick).collect();
                Ok(concatenate(&arrays, 0)?)
            };
            Ok(MixerState { conv: all(|s| &s.conv)?, ssm: all(|s| &s.ssm)? })
        };
        let layers = states.iter().map(|s| s.layers.len()).max().unwrap_or(0);
        Ok(Self { layers: (0..layers).map(layer).collect::<Result<_>>()? })
    }

    /// Returns the sequences `keep` of this batch (ascending) followed by those of `join`. Copies once,
    /// or not at all if nothing changes. Lazy.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if there is no such row or the states are of different
    /// models.
    pub fn regroup(&self, keep: &[usize], join: &[Self]) -> Result<Self> {
        if join.is_empty() && keep.len() == self.batch() {
            return Ok(self.clone());
        }
        // Adjacent rows are copied together: fewer, longer copies.
        let mut runs: Vec<std::ops::Range<i32>> = Vec::new();
        for &row in keep {
            let row = row as i32;
            match runs.last_mut() {
                Some(run) if run.end == row => run.end += 1,
                _ => runs.push(row..row + 1),
            }
        }
        let layer = |i: usize, layer: &MixerState| -> Result<MixerState> {
            let all = |pick: fn(&MixerState) -> &Array| -> Result<Array> {
                let own = pick(layer);
                let mut arrays = runs
                    .iter()
                    .map(|run| Ok(own.try_index(run.clone())?))
                    .collect::<Result<Vec<Array>>>()?;
                arrays.extend(join.iter().filter_map(|s| s.layers.get(i)).map(pick).cloned());
                Ok(match &arrays[..] {
                    [one] => one.contiguous()?,
                    _ => concatenate(&arrays, 0)?,
                })
            };
            Ok(MixerState { conv: all(|s| &s.conv)?, ssm: all(|s| &s.ssm)? })
        };
        let layers = self.layers.iter().enumerate().map(|(i, l)| layer(i, l));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// Returns the values of sequence `row` in float32: `layers.{i}.ssm_state` (h, p, n) and
    /// `layers.{i}.conv_state` (k-1, conv_dim).
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if there is no such row.
    pub fn tensors(&self, row: usize) -> Result<Vec<FloatTensor>> {
        let row = self.row(row)?;
        let mut tensors = Vec::with_capacity(2 * row.layers.len());
        for (i, layer) in row.layers.iter().enumerate() {
            for (name, array) in [("ssm_state", &layer.ssm), ("conv_state", &layer.conv)] {
                let name = format!("layers.{i}.{name}");
                let shape = array.shape().iter().skip(1).map(|&s| s as usize).collect();
                tensors.push(FloatTensor { name, shape, values: host::floats(array)? });
            }
        }
        Ok(tensors)
    }

    /// Evaluates the arrays, so that they no longer keep their graph alive.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the computation fails.
    pub fn eval(&self) -> Result<()> {
        Ok(mlx_rs::transforms::eval(self.arrays())?)
    }

    /// All arrays, layer by layer.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|layer| [&layer.conv, &layer.ssm])
    }

    fn map(&self, f: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        let layer = |layer: &MixerState| -> Result<MixerState> {
            Ok(MixerState { conv: f(&layer.conv)?, ssm: f(&layer.ssm)? })
        };
        Ok(Self { layers: self.layers.iter().map(layer).collect::<Result<_>>()? })
    }
}
