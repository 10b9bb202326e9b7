//! A block in a step of decoding, compared with single operations in float32.

use mlx_rs::{Array, Dtype};

use super::compare::error;
use super::data::{Arrays, Data, Values, array, values};
use super::{Case, Failure, Measured, timed};
use crate::{
    Backend, BlockArgs, BlocksArgs, Dims, LinearArgs, MixerInput, MixerState, MixerWeights, Mode,
    Quantized, Scheme, Weight,
};

const EPSILON: f32 = 1e-5;

/// Sizes of a block whose matrices have codes of 4 bits, and a number of sequences.
#[derive(Debug, Clone)]
pub struct Step {
    /// Sequences.
    pub b: usize,
    /// Width of the residual stream.
    pub d: usize,
    /// Width of the MLP.
    pub hidden: usize,
    /// Sizes of the mixer.
    pub dims: Dims,
    /// Values that share a scale.
    pub group: usize,
    /// The dtype of activations.
    pub dtype: Dtype,
}

/// The arrays of a block.
pub(crate) struct Block {
    pub(crate) x: Array,
    norms: [Array; 3],
    matrices: [Weight; 4],
    mixer: MixerWeights,
    state: MixerState,
}

impl Step {
    /// Returns random arrays in which no part of the block drowns another.
    pub(crate) fn block(&self) -> Result<Block, Failure> {
        let &Self { b, d, hidden, dims, dtype, .. } = self;
        let Dims { h, g, p, n, k } = dims;
        let case = Case::new([h, g, p, n, k], b, 1).dtype(dtype);
        let Arrays { weights: mixer, state, .. } = Arrays::new(&case, &Data::new(&case))?;
        let mut numbers = Values(17);
        let x = array(dtype, &[b, 1, d], &numbers.take(b * d, 1.5, dtype))?;
        let mut norm = || {
            let all: Vec<f64> = numbers.take(d, 0.5, dtype).iter().map(|v| v + 1.0).collect();
            array(dtype, &[d], &all)
        };
        let norms = [norm()?, norm()?, norm()?];
        let matrices = [
            self.matrix(1, [dims.in_proj_dim(), d])?,
            self.matrix(2, [d, dims.d_inner()])?,
            self.matrix(3, [2 * hidden, d])?,
            self.matrix(4, [d, hidden])?,
        ];
        Ok(Block { x, norms, matrices, mixer, state })
    }

    /// Returns a random matrix whose products with rows of mean square 1 have about the same.
    fn matrix(&self, seed: u64, [out, within]: [usize; 2]) -> Result<Weight, Failure> {
        let scheme = Scheme::new(self.group, 4, Mode::Affine)?;
        let mut numbers = Values(seed);
        let packed = scheme.packed_columns(within)?;
        let codes = numbers.words(out * packed);
        let shape = [out, within / self.group];
        let mut around = |middle: f64| -> Result<Array, Failure> {
            let unit = 0.2 / (within as f64).sqrt();
            let all = numbers.take(shape[0] * shape[1], 0.3, Dtype::Float32);
            let all: Vec<f64> = all.iter().map(|v| unit * (middle + v)).collect();
            Ok(array(self.dtype, &shape, &all)?)
        };
        Ok(Weight::Quantized(Quantized {
            weight: Array::from_slice(&codes, &[out as i32, packed as i32]),
            scales: around(1.0)?,
            biases: Some(around(-7.5)?),
            scheme,
        }))
    }

    /// Compares the norm after the block and both states.
    pub(super) fn measure(&self, backend: Backend, last_place: f64) -> Result<Measured, Failure> {
        let block = self.block()?;
        let args = block.args(self.dims);
        let dequantized = |x: &Array, weight: &Weight| -> Result<Array, Failure> {
            match weight {
                Weight::Quantized(quantized) => Ok(quantized.matmul_dequantized(x, 4096)?),
                weight => Ok(Backend::PLAIN.matmul(x, weight)?),
            }
        };
        let wide = block.in_float32()?;
        let expected = one_by_one(&wide.args(self.dims), Backend::PLAIN, dequantized)?;
        let expected: Vec<Vec<f64>> = expected.iter().map(values).collect::<Result<_, _>>()?;
        let timed = timed(&block.arrays(), || match backend.blocks(&args)? {
            Some((normed, states)) => {
                let states = states.into_iter().flat_map(|s| [s.conv, s.ssm]);
                Ok(std::iter::once(normed).chain(states).collect())
            }
            None => one_by_one(&args, backend, |x, weight| Ok(backend.matmul(x, weight)?)),
        })?;
        let plain = match self.dtype {
            Dtype::Float32 => None,
            _ => Some(one_by_one(&args, Backend::PLAIN, dequantized)?),
        };
        let mut errors = Vec::new();
        for (i, expected) in expected.iter().enumerate() {
            let bound = match &plain {
                Some(plain) => (2.0 * error(&values(&plain[i])?, expected)).max(last_place),
                None => last_place,
            };
            errors.push((error(&values(&timed.found[i])?, expected), bound));
        }
        Ok(Measured { errors, timed })
    }
}

impl Block {
    pub(crate) fn args(&self, dims: Dims) -> BlocksArgs<'_> {
        let [in_proj, out_proj, gate, down] =
            self.matrices.each_ref().map(|weight| LinearArgs { weight, bias: None });
        let [mixer_norm, mlp_norm, last] = &self.norms;
        let (mixer, state) = (&self.mixer, &self.state);
        BlocksArgs {
            x: &self.x,
            lengths: None,
            blocks: vec![BlockArgs {
                mixer_norm,
                mlp_norm,
                in_proj,
                A_log_proj: None,
                mixer,
                out_proj,
                gate,
                up: None,
                down,
                state,
            }],
            final_norm: (last, EPSILON),
            epsilon: EPSILON,
            dims,
            activation: crate::Activation::Identity,
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        let Self { x, norms, matrices, mixer, state } = self;
        let mut all = vec![x, &mixer.conv_weight, &mixer.D, &state.conv, &state.ssm];
        all.extend(norms.iter().chain(&mixer.conv_bias).chain(&mixer.z_bias));
        all.extend(matrices.iter().flat_map(Weight::arrays));
        all
    }

    /// Returns the same block with activations in float32.
    fn in_float32(&self) -> Result<Self, Failure> {
        let wide = |array: &Array| array.as_dtype(Dtype::Float32);
        let Self { x, norms: [a, b, c], matrices, mixer, state } = self;
        Ok(Self {
            x: wide(x)?,
            norms: [wide(a)?, wide(b)?, wide(c)?],
            matrices: matrices.clone(),
            mixer: MixerWeights {
                conv_weight: wide(&mixer.conv_weight)?,
                conv_bias: mixer.conv_bias.as_ref().map(wide).transpose()?,
                z_bias: mixer.z_bias.as_ref().map(wide).transpose()?,
                D: mixer.D.clone(),
            },
            state: MixerState { conv: wide(&state.conv)?, ssm: state.ssm.clone() },
        })
    }
}

/// Computes blocks by single operations: the norm after them, and the states.
pub(super) fn one_by_one(
    args: &BlocksArgs<'_>,
    backend: Backend,
    product: impl Fn(&Array, &Weight) -> Result<Array, Failure>,
) -> Result<Vec<Array>, Failure> {
    let &BlocksArgs { epsilon, dims, activation, final_norm: (last, last_epsilon), .. } = args;
    let (mut x, mut states) = (args.x.clone(), Vec::new());
    for block in &args.blocks {
        let u = backend.rms_norm(&x, block.mixer_norm, epsilon)?;
        let rows = product(&u, block.in_proj.weight)?;
        let input = MixerInput::new(&rows);
        let mixed = backend.mixer(&input, block.state, block.mixer, dims, activation)?;
        let y = product(&mixed.y, block.out_proj.weight)?;
        let (sum, u) = backend.add_rms_norm(&x, &y, block.mlp_norm, epsilon)?;
        let gated = backend.swiglu(&product(&u, block.gate.weight)?)?;
        x = sum.add(product(&gated, block.down.weight)?)?;
        states.extend([mixed.state.conv, mixed.state.ssm]);
    }
    let mut found = vec![backend.rms_norm(&x, last, last_epsilon)?];
    found.append(&mut states);
    Ok(found)
}
