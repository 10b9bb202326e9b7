//! Functions with other gradients than MLX would compute: recomputed, or given by the caller.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::closure::failure_or;
use super::handles::{Closure, GradientClosure};
use super::status::{check, install_error_handler};

/// Computes `f(inputs)` such that a gradient through it keeps only `inputs` in memory and computes
/// the rest again.
///
/// Gradients flow to `inputs` and to nothing else: an array that `f` captures is a constant, so
/// parameters must be among the inputs. `f` is called once now and once for every gradient, and
/// must give the same each time.
///
/// # Errors
/// The error of `f`, or an [`Exception`] if it panics. While gradients are computed the caller of
/// MLX gets an error of MLX, and [`failure`](super::failure) has that of `f`.
pub fn recompute<F, E>(f: F, inputs: &[Array]) -> Result<Vec<Array>, E>
where
    F: Fn(&[Array]) -> Result<Vec<Array>, E> + Send + 'static,
    E: From<Exception> + 'static,
{
    install_error_handler()?;
    let (plain, mut wrapped) = (Closure::new(f), Closure::empty());
    // SAFETY: both handles are valid; MLX copies the first, which shares the function.
    let status = unsafe { mlx_sys::mlx_checkpoint(&mut wrapped.0, plain.0) };
    check("mlx_checkpoint", status).map_err(failure_or::<E>)?;
    wrapped.apply(inputs)
}

/// Computes `forward(inputs)` with a gradient that `backward` computes, from the inputs, the
/// gradients with respect to the outputs, and the outputs. It returns a gradient for each input.
///
/// Gradients flow to `inputs` and to nothing else, as in [`recompute`].
///
/// # Errors
/// As [`recompute`].
pub fn with_gradient<F, B, E>(forward: F, backward: B, inputs: &[Array]) -> Result<Vec<Array>, E>
where
    F: Fn(&[Array]) -> Result<Vec<Array>, E> + Send + 'static,
    B: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>, E> + Send + 'static,
    E: From<Exception> + 'static,
{
    install_error_handler()?;
    let (forward, backward) = (Closure::new(forward), GradientClosure::new(backward));
    let mut wrapped = Closure::empty();
    // SAFETY: the three handles are valid; MLX copies the last two, which shares the functions.
    let status = unsafe { mlx_sys::mlx_custom_vjp(&mut wrapped.0, forward.0, backward.0) };
    check("mlx_custom_vjp", status).map_err(failure_or::<E>)?;
    wrapped.apply(inputs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use mlx_rs::transforms::value_and_grad_with_argnums;

    use super::*;
    use crate::mlx::closure::failure;

    type Result<T> = std::result::Result<T, Exception>;

    /// Values of the sum of `f` and of its gradients by both inputs.
    fn value_and_gradients(f: impl Fn(&[Array]) -> Result<Vec<Array>>) -> Vec<f32> {
        let x = Array::from_slice(&[0.1f32, -0.2, 0.3, 0.4], &[2, 2]);
        let w = Array::from_slice(&[0.5f32, 0.6, -0.7, 0.8], &[2, 2]);
        let loss = |x: &[Array]| Ok(vec![f(x)?[0].sum(None)?]);
        let (value, gradients) = value_and_grad_with_argnums(loss, &[0, 1][..])(&[x, w]).unwrap();
        let all = value.iter().chain(&gradients);
        all.flat_map(|array| array.contiguous().unwrap().to_vec_exact::<f32>().unwrap()).collect()
    }

    fn block(x: &[Array]) -> Result<Vec<Array>> {
        let y = x[0].matmul(&x[1])?.sin()?; // (2, 2)
        Ok(vec![y.matmul(&x[1])?.exp()?])
    }

    #[test]
    fn recomputed_values_and_gradients_are_the_same() {
        let expected = value_and_gradients(block);
        let found = value_and_gradients(|x| recompute(block, x));
        assert_eq!(expected.len(), 9);
        assert_eq!(found, expected);
        assert!(expected[1..].iter().all(|g| g.abs() > 1e-3), "{expected:?}");
    }

    #[test]
    fn a_given_gradient_is_used() {
        let product = |x: &[Array]| Ok(vec![x[0].multiply(&x[1])?]);
        // Twice the true gradient by the first input, three times that by the second.
        let backward = |x: &[Array], dy: &[Array], y: &[Array]| {
            assert_eq!((x.len(), dy.len(), y.len()), (2, 1, 1));
            let scaled = |a: &Array, by: f32| dy[0].multiply(a)?.multiply(Array::from_f32(by));
            Ok(vec![scaled(&x[1], 2.0)?, scaled(&x[0], 3.0)?])
        };
        let mut expected = value_and_gradients(product);
        let found = value_and_gradients(|x| with_gradient(product, backward, x));
        expected[1..5].iter_mut().for_each(|g| *g *= 2.0);
        expected[5..].iter_mut().for_each(|g| *g *= 3.0);
        assert_eq!(found, expected);
    }

    #[test]
    fn failures_are_passed_on() {
        let x = [Array::from_f32(1.0)];
        let fails = |_: &[Array]| Err(Exception::custom("no such thing"));
        let error = recompute(fails, &x).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let panics = |_: &[Array]| -> Result<Vec<Array>> { panic!("on purpose") };
        let error = recompute(panics, &x).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(failure::<Exception>().is_none());
    }
}
