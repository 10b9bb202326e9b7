//! The mixer with gradients, as a few kernels.
//!
//! Forward: `mixer_in.metal` convolves x, B and C and computes the decays, `recurrence.metal` is
//! y_t = H_t C_t with H_t = a_t H_{t-1} + x_t (outer) B_t, and `mixer_out.metal` adds D x and gates.
//!
//! Backward, with dy the gradient with respect to y, and with G_t that with respect to H_t, which is
//! G_t = a_{t+1} G_{t+1} + dy_t (outer) C_t:
//!
//! | gradient | is | so in `recurrence.metal` u, v, w, start are |
//! |---|---|---|
//! | dC_t | H_t^T dy_t | B, x, dy, H_0^T |
//! | dx_t | G_t B_t | dy, C, B, dH_l, in reverse |
//! | dB_t | G_t^T x_t | C, dy, x, dH_l^T, in reverse |
//!
//! The sum s_t of all logarithms of decays up to t multiplies y_t by e^{s_t} and x_t by e^{-s_t}, so its
//! gradient is `<dy_t, y_t> - <x_t, dx_t>` (and `<dH_l, H_l>` at the last token), by `mixer_sums.metal`; that of
//! log a_t is the sum of these from t on. Over a document that begins inside the row they sum to 0, so the
//! sum may run over borders between documents. Source: Mamba-2 (arXiv 2405.21060), whose implementation
//! computes its gradient of the decays so. `mixer_in_gradient.metal` does everything else.

use mlx_rs::error::Exception;
use mlx_rs::ops::{split_at_indices, sum_axes, sum_axis, swap_axes, zeros_like};
use mlx_rs::{Array, Dtype};

use super::call::LaunchError;
use super::constants::floats;
use super::mixer_launches::{ChooseRecurrence, TrainingCall, TrainingLaunches};
use super::{Run, exactly};
use crate::mixer::{Mixed, MixerInput, MixerState, MixerWeights};
use crate::mlx::launch::Launch;
use crate::mlx::{Result, with_gradient};
use crate::scan::cumsum_from;
use crate::{Activation, Dims};

/// The number of a mixer's arrays. The last three may be missing: a single zero then has their place.
const INPUTS: usize = 8;

/// Computes a mixer with its gradients, by launches that `run` takes, those of recurrences chosen by
/// `recurrence`; see
/// [`Backend::mixer`](crate::Backend::mixer). There are no gradients of gradients.
///
/// # Errors
/// [`LaunchError::Unsupported`] as [`TrainingLaunches::new`], and for rows of different lengths; MLX's
/// errors.
pub fn mixer_with_gradients(
    (run, recurrence): (Run, ChooseRecurrence),
    input: &MixerInput<'_>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
    activation: Activation,
) -> Result<Mixed, LaunchError> {
    let MixerInput { rows, A_log, lengths, starts } = *input;
    if lengths.is_some() {
        let reason = "the kernels with gradients take rows of one length".to_owned();
        return Err(LaunchError::Unsupported(reason));
    }
    let dtype = rows.dtype();
    let MixerWeights { conv_weight, conv_bias, z_bias, D } = weights;
    let call = TrainingCall {
        dims,
        b: rows.dim(0) as usize,
        l: rows.dim(1) as usize,
        dtype,
        width: rows.dim(2) as usize,
        split_A_log: A_log.is_some(),
        starts: starts.is_some(),
        conv_bias: conv_bias.is_some(),
        z_bias: z_bias.is_some(),
        activation,
    };
    let launches = TrainingLaunches::new(&call, recurrence)?;
    let there = [A_log.is_some(), conv_bias.is_some(), z_bias.is_some()];
    let missing = floats(&[0.0]);
    let starts = match starts {
        Some(starts) => starts.as_dtype(Dtype::Bool)?,
        None => missing.clone(),
    };
    let or_missing = |array: Option<&Array>| array.unwrap_or(&missing).clone();
    let inputs: [Array; INPUTS] = [
        rows.clone(),
        state.conv.as_dtype(dtype)?,
        state.ssm.clone(),
        conv_weight.clone(),
        D.as_dtype(Dtype::Float32)?,
        or_missing(A_log),
        or_missing(conv_bias.as_ref()),
        or_missing(z_bias.as_ref()),
    ];
    let function = Function { run, launches, starts, there, dims };
    let again = function.clone();
    let results: [Array; 6] = with_gradient(
        move |inputs: &[Array]| function.forward(array_of(inputs)?),
        move |inputs: &[Array], d: &[Array], outputs: &[Array]| {
            again.backward(array_of(inputs)?, array_of(d)?, array_of(outputs)?)
        },
        &inputs,
    )?
    .try_into()
    .map_err(|_| Exception::custom("a mixer has six results"))?;
    let [y, conv, ssm, ..] = results;
    Ok(Mixed { y, state: MixerState { conv, ssm } })
}

/// A mixer as a function of its arrays.
#[derive(Debug, Clone)]
struct Function {
    run: Run,
    launches: TrainingLaunches,
    starts: Array,
    /// The last three inputs are not missing.
    there: [bool; 3],
    dims: Dims,
}

impl Function {
    fn run<const N: usize>(&self, launch: &Launch, inputs: &[&Array]) -> Result<[Array; N]> {
        exactly(launch, (self.run)(launch, inputs)?)
    }

    /// Returns the mixer's y and states, and what the gradients need: the convolved rows, the decays and
    /// the recurrence's y.
    fn forward(&self, inputs: &[Array; INPUTS]) -> Result<Vec<Array>> {
        let [rows, conv, ssm, conv_weight, D, A_log, conv_bias, z_bias] = inputs;
        let Self { launches, starts, .. } = self;
        let [mixed, decays, kept] =
            self.run(&launches.before, &[rows, A_log, starts, conv, conv_weight, conv_bias])?;
        let [y, ssm] = self.run(&launches.recurrence, &[&mixed, &mixed, &mixed, &decays, ssm])?;
        let [out] = self.run(&launches.after, &[rows, &mixed, &y, z_bias, D])?;
        Ok(vec![out, kept, ssm, mixed, decays, y])
    }

    /// Returns the gradients with respect to the inputs.
    fn backward(
        &self,
        inputs: &[Array; INPUTS],
        [d_out, d_kept, dH, ..]: &[Array; 6],
        [_, _, H, mixed, decays, y]: &[Array; 6],
    ) -> Result<Vec<Array>> {
        let [rows, conv, ssm, conv_weight, D, A_log, conv_bias, z_bias] = inputs;
        let Self { launches, starts, dims, .. } = self;
        let turned = |H: &Array| swap_axes(H, -1, -2);
        let [dy] = self.run(&launches.by_y, &[rows, mixed, d_out, z_bias, D])?;
        let [by_C, by_x, by_B] = &launches.by_parts;
        let [dC, _] = self.run(by_C, &[mixed, mixed, &dy, decays, &turned(ssm)?])?;
        let [dx, d_ssm] = self.run(by_x, &[&dy, mixed, mixed, decays, dH])?;
        let [dB, _] = self.run(by_B, &[mixed, &dy, mixed, decays, &turned(dH)?])?;
        let at_end = sum_axes(dH.multiply(H)?, &[-2, -1], None)?; // (b, h)
        let [sums] = self.run(&launches.sums, &[&dy, y, mixed, &dx, &at_end])?;
        let by_decays = cumsum_from(&sums)?; // (b, h, l)
        let arrays = [
            rows,
            A_log,
            starts,
            conv,
            conv_weight,
            conv_bias,
            z_bias,
            D,
            mixed,
            y,
            d_out,
            &dy,
            &dx,
            &dB,
            &dC,
            d_kept,
            &by_decays,
        ];
        let [d_rows, d_A_log, d_conv, d_taps, d_gate] = self.run(&launches.by_rows, &arrays)?;

        let (h, p, k) = (dims.h as i32, dims.p as i32, dims.k as i32);
        let cut = |array: &Array, at: i32| -> Result<[Array; 2]> {
            let missing = |_| Exception::custom("an array was not cut in two");
            split_at_indices(&sum_axis(array, 0, None)?, &[at], 0)?.try_into().map_err(missing)
        };
        let [d_weight, d_conv_bias] = cut(&d_taps, k)?; // (k, conv_dim), (1, conv_dim)
        let [d_z_bias, dD] = cut(&d_gate, 1)?; // (1, d_inner) both
        let optional = |there: bool, d: &Array, of: &Array| -> Result<Array> {
            if there { d.reshape(of.shape())?.as_dtype(of.dtype()) } else { zeros_like(of) }
        };
        let there = self.there;
        Ok(vec![
            d_rows,
            d_conv,
            d_ssm,
            d_weight.t().as_dtype(conv_weight.dtype())?.contiguous()?,
            sum_axis(dD.reshape(&[h, p])?, 1, None)?,
            optional(there[0], &d_A_log, A_log)?,
            optional(there[1], &d_conv_bias, conv_bias)?,
            optional(there[2], &d_z_bias, z_bias)?,
        ])
    }
}

fn array_of<const N: usize>(arrays: &[Array]) -> Result<&[Array; N]> {
    arrays.try_into().map_err(|_| Exception::custom("a function with other arrays than it has"))
}
