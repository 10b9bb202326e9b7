//! The check of a mixer's gradients.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::sum;
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, DeviceType, Dtype};

use super::compare::error;
use super::data::{Arrays, Data, Values, array, values};
use super::{Case, Failure, Measured, timed};
use crate::cuda::rounds_products;
use crate::mlx::on_device;
use crate::{Backend, MixerInput, MixerState, MixerWeights};

/// The largest error, relative to the largest value, where the factors of products have 10 bits of mantissa.
const ROUNDED: f64 = 5e-3;

/// Compares the gradients on `backend` with those of plain operations on the CPU: on GPUs these round
/// the factors of products to TF32. Both sum thousands of terms in float32, and may differ by ten times
/// `float32`, or by [`ROUNDED`] where the kernels round as MLX's products do.
pub(super) fn gradient(
    case: &Case,
    backend: Backend,
    float32: f64,
) -> std::result::Result<Measured, Failure> {
    let data = Data::new(case);
    let arrays = Arrays::new(case, &data)?;
    let all = |backend: Backend| Ok(gradients(case, &arrays, backend.differentiable())?);
    let timed = timed(&[&arrays.rows], || all(backend))?;
    let bound = if rounds_products()? { ROUNDED } else { 10.0 * float32 };
    let mut errors = Vec::new();
    for (found, expected) in
        timed.found.iter().zip(&on_device(DeviceType::Cpu, || all(Backend::PLAIN))?)
    {
        errors.push((error(&values(found)?, &values(expected)?), bound));
    }
    Ok(Measured { errors, timed })
}

/// The gradients of a weighted sum of y and both states.
fn gradients(case: &Case, arrays: &Arrays, backend: Backend) -> Result<Vec<Array>> {
    let Arrays { rows, state, weights, starts, .. } = arrays;
    let inputs = [rows, &state.conv, &state.ssm, &weights.conv_weight, &weights.D];
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        let input = MixerInput { starts: starts.as_ref(), ..MixerInput::new(&x[0]) };
        let state = MixerState { conv: x[1].clone(), ssm: x[2].clone() };
        let weights =
            MixerWeights { conv_weight: x[3].clone(), D: x[4].clone(), ..weights.clone() };
        let mixed = backend
            .mixer(&input, &state, &weights, case.dims, case.activation)
            .map_err(|error| Exception::custom(error.to_string()))?;
        let mut total = Array::from_f32(0.0);
        for (seed, part) in (40..).zip([&mixed.y, &mixed.state.conv, &mixed.state.ssm]) {
            let shape: Vec<usize> = part.shape().iter().map(|&size| size as usize).collect();
            let by = Values(seed).take(shape.iter().product(), 1.0, Dtype::Float32);
            let by = array(Dtype::Float32, &shape, &by)
                .map_err(|error| Exception::custom(error.to_string()))?;
            total = total.add(sum(part.multiply(by)?, None)?)?;
        }
        Ok(vec![total])
    };
    let (_, gradients) =
        value_and_grad_with_argnums(loss, &[0, 1, 2, 3, 4][..])(&inputs.map(Array::clone))?;
    Ok(gradients)
}
