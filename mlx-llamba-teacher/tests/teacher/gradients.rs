//! The whole forward pass has gradients: held against finite differences.

use std::collections::BTreeMap;

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::floats;
use mlx_llamba_teacher::{Llama, Trace, Wanted};
use mlx_rs::Array;
use mlx_rs::ops::{mean, square, sum};
use mlx_rs::transforms::value_and_grad_with_argnums;

use crate::support::{Golden, VARIANTS, open};

/// A smooth number that depends on logits, hidden states and attention matrices.
fn loss(trace: &Trace) -> mlx_rs::error::Result<Array> {
    let mut total = mean(square(trace.logits.as_ref().unwrap())?, None)?;
    for array in &trace.hidden {
        total = total.add(mean(square(array)?, None)?)?;
    }
    for array in &trace.attention {
        total = total.add(sum(square(array)?, None)?.multiply(Array::from_f32(0.05))?)?;
    }
    Ok(total)
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const ALL: Wanted = Wanted { hidden: true, attention: true, logits: true };
    for name in VARIANTS {
        let llama = open(name, Backend::PLAIN);
        let golden = Golden::open(name);
        let (tokens, starts) = (golden.tokens(), golden.starts());
        let parameters = llama.parameters().unwrap();
        let names: Vec<String> = parameters.keys().cloned().collect();
        let value = |arrays: &[Array]| -> mlx_rs::error::Result<Array> {
            let parameters: BTreeMap<_, _> =
                names.iter().cloned().zip(arrays.iter().cloned()).collect();
            let llama =
                Llama::from_parameters(llama.config(), &parameters, Backend::PLAIN).unwrap();
            loss(&llama.trace(&tokens, Some(&starts), ALL).unwrap())
        };
        let arrays: Vec<Array> = parameters.values().cloned().collect();
        let all: Vec<i32> = (0..arrays.len() as i32).collect();
        let vector =
            |arrays: &[Array]| -> mlx_rs::error::Result<Vec<Array>> { Ok(vec![value(arrays)?]) };
        let gradients = value_and_grad_with_argnums(vector, &all[..])(&arrays).unwrap().1;
        // Along a direction of a tensor at a time, so that every tensor's gradient counts.
        for (i, (array, gradient)) in arrays.iter().zip(&gradients).enumerate() {
            let size = floats(&sum(square(gradient).unwrap(), None).unwrap()).unwrap()[0].sqrt();
            assert!(size > 0.0, "{name} {} has no gradient", names[i]);
            let direction = gradient.divide(Array::from_f32(size)).unwrap();
            let at = |step: f32| {
                let mut moved = arrays.clone();
                let by = direction.multiply(Array::from_f32(step)).unwrap();
                moved[i] = array.add(by).unwrap();
                f64::from(floats(&value(&moved).unwrap()).unwrap()[0])
            };
            // Short enough for the second order, long enough for float32.
            let step = (1.0 / size).clamp(1e-3, 1e-2);
            let found = (at(step) - at(-step)) / f64::from(2.0 * step);
            let error = (found - f64::from(size)).abs() / f64::from(size).max(1e-2);
            assert!(error < 2e-2, "{name} {}: {found} and {size}", names[i]);
        }
    }
}
