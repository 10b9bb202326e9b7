//! The model as a function: `(tokens, State) -> (logits, State)`.
//!
//! Source: Llamba (arXiv 2502.14458). Fields carry the names of the published checkpoints.

use std::collections::BTreeMap;

use mlx_llamba_kernels::check::{self, Check};
use mlx_llamba_kernels::mlx::{Compiled, current_device, on_device};
use mlx_llamba_kernels::{Backend, BlocksArgs, Draw, MixerState, RandomKey, Scheme, Weight};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, DeviceType, Dtype};

use crate::block::{Block, NORM_EPSILON};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::kernel_check;
use crate::language::{LanguageModel, ReadOne};
use crate::linear::{DtypePolicy, Linear, Matrix, optional};
use crate::named::NamedWeights;
use crate::progress::{OnProgress, Progress};
use crate::random::RandomWeights;
use crate::row_layout::RowLayout;
use crate::state::State;
use crate::tokens;
use crate::weights::Weights;

/// The number of tokens from which a batch is computed block by block on a CPU.
const MANY_TOKENS: usize = 64;

/// A Llamba's weights and its forward pass. Lazy, but for many tokens on a CPU: see
/// [`hidden`](Self::hidden).
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    compute: DtypePolicy,
    device: DeviceType,
    fingerprint: String,
    embedding: Matrix,
    layers: Vec<Block>,
    final_layernorm: Array,
    /// `None`: the embedding's matrix is the head's.
    lm_head: Option<Linear>,
    lm_head_bias: Option<Array>,
}

impl Model {
    /// Creates a model from a checkpoint, with activations in `dtype`. Weights are read on first use,
    /// or by [`materialize`](Self::materialize).
    ///
    /// # Errors
    /// [`Error::Argument`] for a dtype that is not float32, float16 or bfloat16.
    /// [`Error::Backend`] if the environment requests kernels that do not exist.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self> {
        Self::load(checkpoint, dtype, Backend::select(dtype)?)
    }

    /// [`new`](Self::new), with `backend` whatever the environment says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_backend(checkpoint: &Checkpoint, dtype: Dtype, backend: Backend) -> Result<Self> {
        Self::load(checkpoint, dtype, backend)
    }

    /// Creates a model with random weights, all matrices in `scheme` or dense: for benchmarks.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Quantization`] if the scheme does not fit.
    pub fn random(config: Config, scheme: Option<Scheme>, dtype: Dtype) -> Result<Self> {
        Self::random_with_backend(config, scheme, dtype, Backend::select(dtype)?)
    }

    /// [`random`](Self::random), with `backend` whatever the environment says.
    ///
    /// # Errors
    /// As [`random`](Self::random).
    pub fn random_with_backend(
        config: Config,
        scheme: Option<Scheme>,
        dtype: Dtype,
        backend: Backend,
    ) -> Result<Self> {
        Self::load(&RandomWeights::new(config, scheme), dtype, backend)
    }

    /// Creates a model from arrays with canonical names, as listed by [`Config::tensors`]. Copies
    /// nothing, so that it can be called again for every gradient of a function of the arrays.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Tensors`] with every array that is missing or has
    /// another shape. Arrays of other names are ignored.
    pub fn from_parameters(
        config: &Config,
        parameters: &BTreeMap<String, Array>,
        dtype: Dtype,
        backend: Backend,
    ) -> Result<Self> {
        Self::load(&NamedWeights::new(config, parameters)?, dtype, backend)
    }

    fn load(checkpoint: &impl Weights, dtype: Dtype, backend: Backend) -> Result<Self> {
        let config = checkpoint.config().clone();
        let compute = DtypePolicy::new(backend, dtype)?;
        let float = |name: &str| -> Result<Array> { Ok(checkpoint.array(name)?.as_dtype(dtype)?) };
        let layers = (0..config.n_layer)
            .map(|i| Block::load(checkpoint, &format!("backbone.layers.{i}"), compute))
            .collect::<Result<_>>()?;
        let tied = config.tie_embeddings;
        Ok(Self {
            compute,
            device: current_device()?,
            fingerprint: checkpoint.fingerprint(),
            embedding: Matrix::load(checkpoint, "backbone.embedding", compute)?,
            layers,
            final_layernorm: float("backbone.final_layernorm.weight")?,
            lm_head: if tied { None } else { Some(Linear::load(checkpoint, "lm_head", compute)?) },
            lm_head_bias: if tied { optional(checkpoint, "lm_head.bias", dtype)? } else { None },
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kind of device on which the model computes, whatever the default device is: the one
    /// that was current when the model was built.
    pub fn device(&self) -> DeviceType {
        self.device
    }

    /// The dtype of activations.
    pub fn dtype(&self) -> Dtype {
        self.compute.dtype
    }

    /// The back end.
    pub fn backend(&self) -> Backend {
        self.compute.backend
    }

    /// Identifies the weights. A saved state is refused if its fingerprint differs.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Reads all weights, one after the other, so that two copies of the model never exist.
    /// The unit of the progress is a byte.
    ///
    /// # Errors
    /// [`Error::Mlx`] if a file cannot be read; [`Error::Interrupted`].
    pub fn materialize(&self, on_progress: OnProgress<'_>) -> Result<()> {
        let weights = self.weights();
        let total: usize = weights.iter().map(|array| array.nbytes()).sum();
        let mut done = 0;
        for array in weights {
            array.eval()?;
            done += array.nbytes();
            Progress::new("", done as u64, total as u64).tell(on_progress)?;
        }
        Ok(())
    }

    /// The size of the weights in memory in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.weights().iter().map(|array| array.nbytes()).sum()
    }

    /// The number of bytes of weights that a decoding step reads: all but an embedding that is not tied
    /// to the head, of which it reads a few rows, which are not counted.
    pub fn weight_bytes_per_step(&self) -> usize {
        let embedding: usize = self.embedding.arrays().iter().map(|array| array.nbytes()).sum();
        self.weight_bytes() - if self.lm_head.is_some() { embedding } else { 0 }
    }

    /// Lists what the kernels compute for this model, for [`KernelCheck`](crate::kernel_check::KernelCheck).
    pub fn kernel_checks(&self) -> Vec<Check> {
        let dtype = self.compute.dtype;
        let block = self.layers.first();
        let mut all = block.map_or(Vec::new(), |b| b.kernel_checks(&self.config, dtype));
        let head = self.lm_head.as_ref().map_or(self.embedding.weight(), Linear::weight);
        all.extend(kernel_check::products(dtype, [head]));
        all.push(Check::Draw { vocab: self.config.vocab_size, dtype: Dtype::Float32 });
        if let matrix @ Weight::Quantized(_) = self.embedding.weight() {
            let matrix = check::Matrix::Given(matrix.clone());
            all.push(Check::Rows { rows: 3, matrix, dtype });
        }
        all
    }

    /// Runs a step, a short prompt and one of more than a chunk. GPUs compile kernels when these first
    /// run, which would otherwise be in the middle of a reply.
    pub(crate) fn compile(&self) -> Result<()> {
        for l in [1, 5, 70] {
            let tokens = Array::zeros::<i32>(&[1, l])?;
            let (hidden, state) = self.hidden(&tokens, None, &self.state(1)?)?;
            let logits = self.head(&hidden.try_index((.., -1, ..))?)?; // (1, at least vocab)
            let draw = Draw {
                vocab: self.config.vocab_size,
                temperature: 1.0,
                depth: f32::INFINITY,
                keys: &[RandomKey::new(0)],
            };
            let token = self.compute.backend.draw(&logits, &draw)?;
            eval(state.arrays().chain([&token]))?;
        }
        Ok(())
    }

    fn weights(&self) -> Vec<&Array> {
        let mut all = self.embedding.arrays();
        all.extend(self.layers.iter().flat_map(Block::arrays));
        all.push(&self.final_layernorm);
        all.extend(self.lm_head.iter().flat_map(Linear::arrays).chain(&self.lm_head_bias));
        all
    }

    /// Converts token ids to an array (b, l), rows padded on the right, and returns their lengths (b,)
    /// if they differ.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; [`Error::EmptyPrompt`] if no row has a token.
    pub fn tokens(&self, rows: &[&[u32]]) -> Result<(Array, Option<Array>)> {
        tokens::check(rows, self.config.vocab_size)?;
        Ok((tokens::array(rows), tokens::lengths(rows)))
    }

    /// Computes the hidden states after the final norm.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | tokens | (b, l), l >= 1 | integer |
    /// | lengths | (b,) tokens of each row that count; the rest is padding | int32 |
    ///
    /// Returns (b, l, d_model) in the activations' dtype, unspecified at padded positions, and
    /// the state after each row's last token. Ids past the vocabulary read its last row. Lazy; but
    /// the CPU kernels compute 64 tokens and more here, block by block, so that the activations of
    /// one block are in memory at a time.
    ///
    /// # Errors
    /// [`Error::Shape`] if `state` is of another batch size.
    pub fn hidden(
        &self,
        tokens: &Array,
        lengths: Option<&Array>,
        state: &State,
    ) -> Result<(Array, State)> {
        self.hidden_within(tokens, RowLayout { lengths, starts: None }, state)
    }

    /// Computes [`hidden`](Self::hidden) of rows that may hold several documents.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden).
    pub fn hidden_within(
        &self,
        tokens: &Array,
        layout: RowLayout<'_>,
        state: &State,
    ) -> Result<(Array, State)> {
        on_device(self.device, || self.run(tokens, layout, state))
    }

    fn run(&self, tokens: &Array, layout: RowLayout<'_>, state: &State) -> Result<(Array, State)> {
        let waits = self.compute.backend.allocates_ahead() && tokens.size() >= MANY_TOKENS;
        let mut x = self.embed(tokens)?; // (b, l, d)
        if !waits && layout.starts.is_none() {
            let args = BlocksArgs {
                x: &x,
                lengths: layout.lengths,
                blocks: self.layers.iter().zip(state.layers()).map(|(l, s)| l.args(s)).collect(),
                final_norm: self.norm(self.layers.len()),
                epsilon: NORM_EPSILON,
                dims: self.config.dims(),
                activation: self.config.ssm.activation,
            };
            if let Some((u, layers)) = self.compute.backend.blocks(&args)? {
                return Ok((u, State::from_layers(layers)));
            }
        }
        let (weight, epsilon) = self.norm(0);
        let mut u = self.compute.backend.rms_norm(&x, weight, epsilon)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, (layer, state)) in self.layers.iter().zip(state.layers()).enumerate() {
            let (inside, y, state) = layer.forward(&x, &u, layout, state)?;
            let (weight, epsilon) = self.norm(i + 1);
            (x, u) = self.compute.backend.add_rms_norm(&inside, &y, weight, epsilon)?;
            layers.push(state);
            if waits {
                eval([&x, &u])?;
            }
        }
        Ok((u, State::from_layers(layers)))
    }

    /// Returns the embeddings (b, l, d_model) of `tokens` (b, l), the input of the first block.
    ///
    /// # Errors
    /// [`Error::Mlx`] if `tokens` are not integers.
    pub fn embed(&self, tokens: &Array) -> Result<Array> {
        on_device(self.device, || self.embedding.rows(tokens))
    }

    /// Runs block `i` alone, from the residual stream before it (b, l, d_model) to the one after it.
    /// Returns that and the block's new state.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such block; [`Error::Shape`] if `state` is of another
    /// batch size.
    pub fn block(
        &self,
        i: usize,
        x: &Array,
        layout: RowLayout<'_>,
        state: &MixerState,
    ) -> Result<(Array, MixerState)> {
        on_device(self.device, || {
            let (x, y, state) = self.block_summands(i, x, layout, state)?;
            Ok((x.add(y)?, state))
        })
    }

    /// Runs [`block`](Self::block), but returns the two arrays whose sum is the residual stream after it: the one
    /// after the mixer, and the output of the MLP in the dtype of products.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn block_summands(
        &self,
        i: usize,
        x: &Array,
        layout: RowLayout<'_>,
        state: &MixerState,
    ) -> Result<(Array, Array, MixerState)> {
        on_device(self.device, || {
            let (layer, u) = self.before(i, x)?;
            layer.forward(x, &u, layout, state)
        })
    }

    /// Returns the mixer of block `i` as a matrix over time, (b, h, l, l) in float32, given the residual
    /// stream before the block (b, l, d_model): see [`Backend::mixing_matrix`].
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn mixing_matrix(&self, i: usize, x: &Array, layout: RowLayout<'_>) -> Result<Array> {
        on_device(self.device, || {
            let (layer, u) = self.before(i, x)?;
            layer.matrix(&u, layout)
        })
    }

    /// Returns block `i` and the norm of its input.
    fn before(&self, i: usize, x: &Array) -> Result<(&Block, Array)> {
        let layer = self.layers.get(i).ok_or_else(|| Error::Argument {
            name: "block",
            value: i.to_string(),
            expected: format!("less than {}", self.layers.len()),
        })?;
        Ok((layer, self.compute.backend.rms_norm(x, &layer.input_layernorm, NORM_EPSILON)?))
    }

    /// The weight and epsilon of the norm before block `i`; after the last block, of the final norm.
    fn norm(&self, i: usize) -> (&Array, f32) {
        match self.layers.get(i) {
            Some(layer) => (&layer.input_layernorm, NORM_EPSILON),
            None => (&self.final_layernorm, self.config.norm_epsilon as f32),
        }
    }

    /// Converts hidden states (.., d_model) to logits (.., padded_vocab), float32.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the last axis is not `d_model`.
    pub fn head(&self, hidden: &Array) -> Result<Array> {
        on_device(self.device, || {
            let logits = match &self.lm_head {
                Some(lm_head) => lm_head.forward(hidden)?,
                None => self.embedding.matmul(hidden)?,
            };
            let logits = match &self.lm_head_bias {
                Some(bias) => logits.add(bias)?,
                None => logits,
            };
            Ok(logits.as_dtype(Dtype::Float32)?)
        })
    }

    /// Computes [`hidden`](Self::hidden), then [`head`](Self::head): logits (b, l, padded_vocab) of the
    /// token after each position, float32.
    ///
    /// # Errors
    /// As those two.
    pub fn forward(
        &self,
        tokens: &Array,
        lengths: Option<&Array>,
        state: &State,
    ) -> Result<(Array, State)> {
        let (hidden, state) = self.hidden(tokens, lengths, state)?;
        Ok((self.head(&hidden)?, state))
    }

    /// Returns the state of `b` sequences before their first token.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the batch is too large for memory.
    pub fn state(&self, b: usize) -> Result<State> {
        on_device(self.device, || State::zeros(&self.config, b, self.compute.dtype))
    }

    /// Returns [`recorded`](LanguageModel::recorded) on any back end.
    fn record(&self) -> Result<ReadOne<State>> {
        let model = self.clone();
        let step = Compiled::new(move |inputs: &[Array]| -> Result<Vec<Array>> {
            let state = State::from_arrays(inputs.get(1..).unwrap_or_default());
            let tokens = inputs.first().ok_or(Error::EmptyPrompt)?;
            let (hidden, state) = model.hidden(tokens, None, &state)?;
            Ok([&hidden].into_iter().chain(state.arrays()).cloned().collect())
        })?;
        let model = self.clone();
        Ok(Box::new(move |tokens, state| {
            if !step.is_at_home() {
                return model.read(tokens, state);
            }
            let inputs: Vec<Array> = [tokens].into_iter().chain(state.arrays()).cloned().collect();
            drop(state);
            let outputs = step.call::<Error>(&inputs)?;
            let [hidden, state @ ..] = &outputs[..] else { return Err(Error::EmptyPrompt) };
            Ok((hidden.clone(), State::from_arrays(state)))
        }))
    }
}

impl LanguageModel for Model {
    type State = State;

    fn vocab_size(&self) -> usize {
        self.config().vocab_size
    }

    fn eos(&self) -> &[u32] {
        &self.config().eos
    }

    fn device(&self) -> Result<DeviceType> {
        Ok(self.device)
    }

    fn backend(&self) -> Backend {
        self.backend()
    }

    fn start(&self) -> Result<State> {
        self.state(1)
    }

    fn read(&self, tokens: &Array, state: State) -> Result<(Array, State)> {
        self.hidden(tokens, None, &state)
    }

    /// Rows of one token and longer ones are read apart: each is computed as it would be alone.
    fn read_rows(&self, rows: &[&[u32]], state: State) -> Result<(Array, State)> {
        let (short, long): (Vec<usize>, Vec<usize>) =
            (0..rows.len()).partition(|&i| rows[i].len() == 1);
        let (mut hidden, mut states) = (vec![None; rows.len()], vec![None; rows.len()]);
        for group in [short, long].iter().filter(|group| !group.is_empty()) {
            let chunks: Vec<&[u32]> = group.iter().map(|&i| rows[i]).collect();
            let before = match group.len() == rows.len() {
                true => state.clone(),
                false => state.regroup(group, &[])?,
            };
            let (tokens, lengths) = (tokens::array(&chunks), tokens::lengths(&chunks)); // (b, l)
            let (all, after) = self.hidden(&tokens, lengths.as_ref(), &before)?; // (b, l, d)
            if group.len() == rows.len() && lengths.is_none() {
                return Ok((all.try_index((.., -1, ..))?, after));
            }
            for (place, &i) in group.iter().enumerate() {
                let (row, last) = (place as i32, rows[i].len() as i32 - 1);
                hidden[i] = Some(all.try_index((row..row + 1, last, ..))?); // (1, d)
                states[i] = Some(after.row(place)?);
            }
        }
        let states: Vec<State> = states.into_iter().flatten().collect();
        Ok((
            concatenate(&hidden.into_iter().flatten().collect::<Vec<_>>(), 0)?,
            State::stack(&states)?,
        ))
    }

    fn recorded(&self) -> Result<Option<ReadOne<State>>> {
        if self.compute.backend.replays_steps() { self.record().map(Some) } else { Ok(None) }
    }

    fn head(&self, hidden: &Array) -> Result<Array> {
        self.head(hidden)
    }

    fn arrays(state: &State) -> Vec<&Array> {
        state.arrays().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::transforms::eval;

    use super::*;
    use crate::{Compute, Llamba};

    #[test]
    fn a_recorded_step_is_the_step() {
        let llamba = Llamba::embedded().compute(Compute::Cpu).load().unwrap();
        let model = llamba.model();
        let record = model.record().unwrap();
        for ids in [&[7u32, 300][..], &[7], &[9, 300]] {
            let tokens = Array::from_slice(ids, &[ids.len() as i32, 1]);
            let [mut found, mut expected] = [(); 2].map(|()| model.state(ids.len()).unwrap());
            for _ in 0..2 {
                let (hidden, state) = record(&tokens, found).unwrap();
                let (by_steps, after) = model.read(&tokens, expected).unwrap();
                eval([&hidden, &by_steps]).unwrap();
                let floats = |array: &Array| crate::mlx::floats(array).unwrap();
                assert_eq!(floats(&hidden), floats(&by_steps));
                for (found, expected) in state.arrays().zip(after.arrays()) {
                    assert_eq!(floats(found), floats(expected));
                }
                (found, expected) = (state, after);
            }
        }
    }
}
