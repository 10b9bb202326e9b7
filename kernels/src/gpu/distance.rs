//! Distances of rows with their gradients, by `distance.metal` and `distance_gradient.metal`.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::call::{LaunchError, float_bytes, sizes};
use super::{Run, exactly};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};
use crate::mlx::with_gradient;

static DISTANCE: Source = Source {
    name: "llamba_distance",
    inputs: &["x", "y", "target"],
    outputs: &["norms"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/distance.metal"),
};

static DISTANCE_GRADIENT: Source = Source {
    name: "llamba_distance_gradient",
    inputs: &["x", "y", "target", "norms", "d_norms"],
    outputs: &["d_x", "d_y"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/distance_gradient.metal"),
};

/// Threads of a threadgroup.
const THREADS: usize = 256;

/// Returns the launch of the norms of `x + y - target`, given the shape (m, d) and the three dtypes, and that of the
/// gradients with respect to x and, in another dtype than that of x, to y.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, empty arrays, and too many elements.
pub fn distance_launches(
    [m, d]: [usize; 2],
    dtypes: [Dtype; 3],
) -> Result<[Launch; 2], LaunchError> {
    for dtype in dtypes {
        float_bytes(dtype)?;
    }
    let reads = if d % 4 == 0 { 4 } else { 1 };
    let rounded = dtypes[0] != dtypes[1];
    let launch = |source, threads: usize, flags: &[(&'static str, bool)], outputs| {
        let Some(grid) = i32::try_from(threads.next_multiple_of(THREADS)).ok().filter(|&n| n > 0)
        else {
            return Err(LaunchError::Unsupported(format!("{m} rows of {d} have no launch")));
        };
        let mut template: Vec<_> =
            ["T", "U", "V"].into_iter().zip(dtypes.map(Argument::Dtype)).collect();
        template.extend(sizes([("d", d), ("reads", reads)]));
        template.extend(flags.iter().map(|&(name, flag)| (name, Argument::Bool(flag))));
        Ok(Launch {
            source,
            template,
            grid: (grid, 1, 1),
            threadgroup: (THREADS as i32, 1, 1),
            outputs,
            threadgroup_bytes: 0,
            dynamic_bytes: 0,
        })
    };
    let by_y: &[usize] = if rounded { &[m, d] } else { &[1] };
    let gradients = vec![Output::new(&[m, d], dtypes[0]), Output::new(by_y, dtypes[1])];
    let norms = vec![Output::new(&[m], Dtype::Float32)];
    Ok([
        launch(&DISTANCE, 32 * m * usize::from(d > 0), &[], norms)?,
        launch(&DISTANCE_GRADIENT, m * d / reads, &[("rounded", rounded)], gradients)?,
    ])
}

/// Computes the norms of the rows of `x + y - target`, with gradients with respect to x and y, by launches that `run`
/// takes; see [`Backend::distances`](crate::Backend::distances).
///
/// # Errors
/// As [`distance_launches`], and [`LaunchError::Unsupported`] for arrays of different shapes; MLX's errors.
pub fn distances(run: Run, x: &Array, y: &Array, target: &Array) -> Result<Array, LaunchError> {
    let shape = x.shape().to_vec();
    let Some((&d, rows)) =
        shape.split_last().filter(|_| [y, target].map(Array::shape) == [&shape; 2])
    else {
        let shapes = [x, y, target].map(Array::shape);
        return Err(LaunchError::Unsupported(format!("arrays {shapes:?} have no distances")));
    };
    let m: i32 = rows.iter().product();
    let dtypes = [x, y, target].map(Array::dtype);
    let [forward, backward] = distance_launches([m as usize, d as usize], dtypes)?;
    let flat = move |array: &Array| array.reshape(&[m, d]);
    let target = flat(target)?;
    let fixed = target.clone();
    let of_rows = rows.to_vec();
    let outputs = with_gradient(
        move |inputs: &[Array]| {
            let (x, y) = (flat(&inputs[0])?, flat(&inputs[1])?);
            let [norms] = exactly(&forward, run(&forward, &[&x, &y, &target])?)?;
            Ok::<_, Exception>(vec![norms.reshape(&of_rows)?])
        },
        move |inputs: &[Array], d_norms: &[Array], outputs: &[Array]| {
            let (x, y) = (flat(&inputs[0])?, flat(&inputs[1])?);
            let (norms, d_norms) = (outputs[0].reshape(&[-1])?, d_norms[0].reshape(&[-1])?);
            let found = run(&backward, &[&x, &y, &fixed, &norms, &d_norms])?;
            let [by_x, by_y] = exactly(&backward, found)?;
            let by_x = by_x.reshape(&shape)?;
            let same = inputs[0].dtype() == inputs[1].dtype();
            let by_y = if same { by_x.clone() } else { by_y.reshape(&shape)? };
            Ok(vec![by_x, by_y])
        },
        &[x.clone(), y.clone()],
    )?;
    let missing = || Exception::custom("distances without a result").into();
    outputs.into_iter().next().ok_or_else(missing)
}
