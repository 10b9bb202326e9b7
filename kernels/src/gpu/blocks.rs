//! A step of decoding with five launches a block: norms, residual connections and the gate of the MLP are
//! computed by the products beside them.

use mlx_rs::{Array, Dtype};

use super::call::{Fusion, LaunchError, MatmulCall};
use super::{FusedMatmul, Gpu};
use crate::mixer::MixerArgs;
use crate::{BlockArgs, BlocksArgs, LinearArgs, MixerInput, MixerState, Weight};

impl Gpu {
    /// Implements [`Backend::blocks`](crate::Backend::blocks) for one token of a few sequences.
    pub(super) fn blocks_kernels(
        &self,
        args: &BlocksArgs<'_>,
    ) -> Result<(Array, Vec<MixerState>), LaunchError> {
        let BlocksArgs { x, lengths, ref blocks, final_norm, epsilon, dims, activation } = *args;
        let (Some(fused), 1, None) = (self.fused, x.dim(1), lengths) else {
            return refuse("only whole steps of one token have such launches");
        };
        if !blocks.iter().all(|block| takes_block(block, x.dtype())) || blocks.is_empty() {
            return refuse(
                "the blocks have biases, or matrices and norms that are stored otherwise",
            );
        }
        let product = |x: &Array, linear: LinearArgs<'_>, beside: &Array, fusion| {
            self.fused_product(fused, [x, beside], linear.weight, fusion)
        };
        let (mut x, mut states) = (x.clone(), Vec::with_capacity(blocks.len())); // (b, 1, d)
        for block in blocks {
            let rows = product(&x, block.in_proj, block.mixer_norm, Fusion::Norm { epsilon })?;
            let (state, weights) = (block.state, block.mixer);
            let input = &MixerInput::new(&rows);
            let mixed = self.mixer_kernel(MixerArgs { input, state, weights, dims, activation })?;
            x = product(&mixed.y, block.out_proj, &x, Fusion::Residual)?;
            let gated = product(&x, block.gate, block.mlp_norm, Fusion::NormSwiglu { epsilon })?;
            x = product(&gated, block.down, &x, Fusion::Residual)?;
            states.push(mixed.state);
        }
        let (weight, epsilon) = final_norm;
        Ok((mlx_rs::fast::rms_norm(&x, Some(weight), epsilon)?, states))
    }

    /// Multiplies (b, 1, in) by a quantized matrix, with the operations beside it: (b, 1, out).
    fn fused_product(
        &self,
        fused: FusedMatmul,
        [x, beside]: [&Array; 2],
        weight: &Weight,
        fusion: Fusion,
    ) -> Result<Array, LaunchError> {
        let (Weight::Quantized(weight), columns) = (weight, x.dim(2) as usize) else {
            return refuse("the matrix is not quantized");
        };
        let call = MatmulCall::of(x.dim(0) as usize, columns, x.dtype(), weight)?;
        let expected: &[i32] = match fusion {
            Fusion::Residual => &[x.dim(0), 1, call.rows as i32],
            _ => &[columns as i32],
        };
        if beside.shape() != expected || beside.dtype() != call.dtype {
            return refuse("a norm or a residual stream does not fit its product");
        }
        let Some(biases) = &weight.biases else { return refuse("the matrix has no biases") };
        let launch = fused(&call, fusion)?;
        let [y] = self.run(&launch, &[x, &weight.weight, &weight.scales, biases, beside])?;
        Ok(y)
    }
}

/// Returns true if a block has the parts that the launches take; they look at the sizes themselves.
fn takes_block(block: &BlockArgs<'_>, dtype: Dtype) -> bool {
    let BlockArgs { in_proj, out_proj, gate, down, A_log_proj, up, .. } = block;
    let linears = [in_proj, out_proj, gate, down];
    let plain = |linear: &LinearArgs<'_>| {
        linear.bias.is_none() && matches!(linear.weight, Weight::Quantized(_))
    };
    dtype == Dtype::Bfloat16
        && A_log_proj.is_none()
        && up.is_none()
        && linears.into_iter().all(plain)
}

fn refuse<T>(reason: &str) -> Result<T, LaunchError> {
    Err(LaunchError::Unsupported(reason.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::check::{Check, FLOAT32, Step};
    use crate::cuda::{CUDA, fused_matmul_launch, shared_bytes};
    use crate::elementwise::Functions;
    use crate::gpu::{Argument, Launch};
    use crate::mlx::Result;
    use crate::{Activation, Backend, Dims, MixerWeights, Mode, Quantized, Scheme, plain};

    const DIMS: Dims = Dims { h: 4, g: 2, p: 64, n: 64, k: 4 };

    fn step(b: usize, dtype: Dtype) -> Step {
        Step { b, d: 256, hidden: 512, dims: DIMS, group: 64, dtype }
    }

    /// Computes what a launch says, by plain operations.
    ///
    /// # Safety
    /// None is needed.
    unsafe fn stand_in(launch: &Launch, _: &str, inputs: &[&Array]) -> Result<Vec<Array>> {
        let found = match *inputs {
            [x, weight, scales, biases, beside] => {
                let scheme = Scheme { group_size: 64, bits: 4, mode: Mode::Affine };
                let [weight, scales, biases] = [weight, scales, biases].map(Array::clone);
                let matrix = Quantized { weight, scales, biases: Some(biases), scheme };
                let is = |name| launch.template.contains(&(name, Argument::Bool(true)));
                let normed = mlx_rs::fast::rms_norm(x, Some(&beside.reshape(&[-1])?), 1e-5);
                let x = if is("norm") { normed? } else { x.clone() };
                let y = matrix.matmul_dequantized(&x, i32::MAX).unwrap();
                let y = if is("swiglu") { plain::swiglu(&y)? } else { y };
                vec![if is("residual") { y.add(beside)? } else { y }]
            }
            [rows, _, _, conv, ssm, conv_weight, conv_bias, z_bias, D] => {
                let [conv, ssm, conv_weight, D] = [conv, ssm, conv_weight, D].map(Array::clone);
                let biases = [conv_bias, z_bias].map(|bias| Some(bias.clone()));
                let [conv_bias, z_bias] = biases;
                let args = MixerArgs {
                    input: &MixerInput::new(rows),
                    state: &MixerState { conv, ssm },
                    weights: &MixerWeights { conv_weight, conv_bias, z_bias, D },
                    dims: DIMS,
                    activation: Activation::Identity,
                };
                let mixed = plain::mixer(args, Functions::MLX)?;
                vec![mixed.y, mixed.state.conv, mixed.state.ssm]
            }
            _ => panic!("{} inputs of {}", inputs.len(), launch.source.name),
        };
        for (found, output) in found.iter().zip(&launch.outputs) {
            assert_eq!((found.shape(), found.dtype()), (&output.shape[..], output.dtype));
        }
        Ok(found)
    }

    /// Returns a large GPU whose launches are computed by the [stand-in](stand_in).
    fn gpu() -> Gpu {
        let fused: FusedMatmul =
            |call, fusion| fused_matmul_launch(call, fusion, shared_bytes((9, 0)));
        Gpu { fused: Some(fused), run: stand_in, ..CUDA }
    }

    fn takes(args: &BlocksArgs<'_>) -> bool {
        match gpu().blocks_kernels(args) {
            Ok(_) => true,
            Err(LaunchError::Unsupported(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_launches_of_a_step_are_its_operations() {
        let backend = Backend::of(Box::leak(Box::new(gpu())));
        for b in [1, 5, 8] {
            let step = step(b, Dtype::Bfloat16);
            assert!(takes(&step.block().unwrap().args(DIMS)), "{b}");
            let outcome = Check::Blocks(step).run(backend, FLOAT32);
            assert!(outcome.passed(), "{outcome}");
        }
    }

    #[test]
    fn other_steps_are_computed_by_single_operations() {
        for (b, dtype) in [(9, Dtype::Bfloat16), (1, Dtype::Float16), (1, Dtype::Float32)] {
            assert!(!takes(&step(b, dtype).block().unwrap().args(DIMS)), "{b} {dtype:?}");
        }
        let block = step(1, Dtype::Bfloat16).block().unwrap();
        let args = block.args(DIMS);
        let lengths = Array::from_slice(&[1], &[1]);
        assert!(!takes(&BlocksArgs { lengths: Some(&lengths), ..args.clone() }));
        let two = Array::zeros::<f32>(&[1, 2, 256]).unwrap().as_dtype(Dtype::Bfloat16).unwrap();
        assert!(!takes(&BlocksArgs { x: &two, ..args.clone() }));
        assert!(!takes(&BlocksArgs { blocks: Vec::new(), ..args.clone() }));
        let one = args.blocks[0];
        let dense = Weight::Dense(block.x.clone());
        let (bias, linear) = (Some(&block.x), LinearArgs { weight: &dense, bias: None });
        for other in [
            BlockArgs { in_proj: LinearArgs { bias, ..one.in_proj }, ..one },
            BlockArgs { A_log_proj: Some(linear), ..one },
            BlockArgs { up: Some(linear), ..one },
            BlockArgs { down: linear, ..one },
            BlockArgs { out_proj: one.down, ..one },
            BlockArgs { mlp_norm: &lengths, ..one },
        ] {
            assert!(!takes(&BlocksArgs { blocks: vec![one, other], ..args.clone() }));
        }
    }
}
