//! The recurrence with gradients, by `recurrence.metal`.
//!
//! With y_t = H_t C_t and H_t = a_t H_{t-1} + x_t (outer) B_t, and with G_t the gradient with respect to
//! H_t, which is G_t = a_{t+1} G_{t+1} + dy_t (outer) C_t:
//!
//! | gradient | is | so in the kernel u, v, w, start are |
//! |---|---|---|
//! | dC_t | H_t^T dy_t | B, x, dy, H_0^T |
//! | dx_t | G_t B_t | dy, C, B, dH_l, in reverse |
//! | dB_t | G_t^T x_t | C, dy, x, dH_l^T, in reverse |
//!
//! The decays come as logarithms. What the sum of all of them up to t multiplies is y_t, and it divides
//! x_t, so its gradient is `<dy_t, y_t> - <x_t, dx_t>` (and `<dH_l, H_l>` at the last token); that of
//! log a_t is the sum of these from t on. Over a document that begins inside the row they sum to 0, so
//! the sum may run over borders between documents. Source: Mamba-2 (arXiv 2405.21060), whose
//! implementation computes its gradient of the decays so.

use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, select, sum_axis, swap_axes, zeros_dtype};
use mlx_rs::{Array, Dtype};

use super::call::{LaunchError, sizes};
use crate::Dims;
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};
use crate::mlx::{Result, with_gradient};
use crate::scan::cumsum_from;

static RECURRENCE: Source = Source {
    name: "llamba_recurrence",
    inputs: &["u", "v", "w", "a", "start"],
    outputs: &["out", "last"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/recurrence.metal"),
};

/// Threads that share a row of a state, rows of a thread, and tokens in threadgroup memory.
const LANES: usize = 4;
const PER: usize = 2;
const STEPS: usize = 16;

/// The sizes of a launch of `recurrence.metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrenceCall {
    /// Sequences.
    pub b: usize,
    /// Tokens.
    pub l: usize,
    /// Heads of the states.
    pub h: usize,
    /// Heads of u, v and w; each divides `h`.
    pub heads: [usize; 3],
    /// Rows of a state.
    pub rows: usize,
    /// Columns of a state.
    pub columns: usize,
    /// From the last token to the first.
    pub reverse: bool,
}

/// Returns the launch of `recurrence.metal`; all arrays are float32.
///
/// # Errors
/// [`LaunchError::Unsupported`] for empty arrays, and for more than 128 columns.
pub fn recurrence_launch(call: &RecurrenceCall) -> Result<Launch, LaunchError> {
    let RecurrenceCall { b, l, h, heads: [hu, hv, hw], rows, columns, reverse } = *call;
    let unsupported = |reason: String| Err(LaunchError::Unsupported(reason));
    if columns > 128 {
        return unsupported(format!("a row of {columns} does not fit in registers"));
    }
    if [b, l, h, rows, columns].contains(&0) {
        return unsupported("there are no states".to_owned());
    }
    let tile = 32 / LANES * PER;
    let blocks = b * h * rows.div_ceil(tile);
    let Ok(grid) = i32::try_from(32 * blocks) else {
        return unsupported(format!("{blocks} blocks have more threads than a grid may have"));
    };
    let width = columns.next_multiple_of(LANES);
    let mut template: Vec<_> = sizes([("h", h), ("hu", hu), ("hv", hv), ("hw", hw)]).collect();
    template.extend(sizes([("rows", rows), ("columns", columns)]));
    template.extend(sizes([("lanes", LANES), ("per", PER), ("steps", STEPS)]));
    template.push(("reverse", Argument::Bool(reverse)));
    Ok(Launch {
        source: &RECURRENCE,
        template,
        grid: (grid, 1, 1),
        threadgroup: (32, 1, 1),
        outputs: vec![
            Output::new(&[b, l, h, rows], Dtype::Float32),
            Output::new(&[b, h, rows, columns], Dtype::Float32),
        ],
        threadgroup_bytes: 4 * STEPS * (tile + 2 * width + 1),
        dynamic_bytes: 0,
    })
}

/// Puts a launch into MLX's graph, or computes it otherwise.
pub type Run = fn(&Launch, &[&Array]) -> Result<Vec<Array>>;

/// Computes the recurrence with its gradients, by launches that `run` takes. All float32.
///
/// | arg | shape |
/// |---|---|
/// | x | (b, l, h, p) |
/// | log_a | (b, l, h), <= 0 |
/// | B, C | (b, l, g, n) |
/// | H | (b, h, p, n) |
/// | starts | (b, l) bool: true where a document starts |
///
/// Returns y (b, l, h, p) and the H after the last token.
///
/// # Errors
/// [`LaunchError::Unsupported`] for p or n above 128; MLX's errors.
pub fn recurrence(
    run: Run,
    [x, log_a, B, C, H]: [&Array; 5],
    starts: Option<&Array>,
    dims: Dims,
) -> Result<(Array, Array), LaunchError> {
    let (b, l) = (x.dim(0) as usize, x.dim(1) as usize);
    let Dims { h, g, p, n, .. } = dims;
    let launch = move |heads, rows, columns, reverse| {
        recurrence_launch(&RecurrenceCall { b, l, h, heads, rows, columns, reverse })
    };
    let y = launch([h, g, g], p, n, false)?;
    let by_C = launch([g, h, h], n, p, false)?;
    let by_x = launch([h, g, g], p, n, true)?;
    let by_B = launch([g, h, h], n, p, true)?;
    let computed = move |launch: &Launch, arrays: &[&Array]| -> Result<[Array; 2]> {
        run(launch, arrays)?.try_into().map_err(|_| Exception::custom("a launch has two outputs"))
    };

    let not_first = starts.map(|starts| starts.logical_not()?.reshape(&[b as i32, l as i32, 1]));
    let not_first = not_first.transpose()?;
    let goes_on = not_first.clone();
    let decays = move |log_a: &Array| -> Result<Array> {
        let a = log_a.exp()?;
        match &goes_on {
            Some(goes_on) => select(goes_on, &a, Array::from_f32(0.0)),
            None => Ok(a),
        }
    };
    let again = decays.clone();
    let forward = move |inputs: &[Array]| -> Result<Vec<Array>> {
        let [x, log_a, B, C, H] = five(inputs)?;
        computed(&y, &[x, B, C, &decays(log_a)?, H]).map(Vec::from)
    };
    let backward = move |inputs: &[Array], d: &[Array], outputs: &[Array]| -> Result<Vec<Array>> {
        let [x, log_a, B, C, H] = five(inputs)?;
        let (&[dy, dH_l], &[y, H_l]) = (&two(d)?, &two(outputs)?);
        let a = again(log_a)?;
        let turned = |H: &Array| swap_axes(H, -1, -2);
        let [dC, _] = computed(&by_C, &[B, x, dy, &a, &turned(H)?])?; // (b, l, h, n)
        let [dx, dH] = computed(&by_x, &[dy, C, B, &a, dH_l])?;
        let [dB, _] = computed(&by_B, &[C, dy, x, &a, &turned(dH_l)?])?; // (b, l, h, n)

        let inner = |a: &Array, b: &Array| sum_axis(a.multiply(b)?, -1, None);
        let by_sums = inner(dy, y)?.subtract(inner(x, &dx)?)?; // (b, l, h)
        let at_end = sum_axis(inner(dH_l, H_l)?, -1, None)?; // (b, h)
        let before = zeros_dtype(&[b as i32, l as i32 - 1, h as i32], Dtype::Float32)?;
        let at_end = concatenate(&[&before, &at_end.expand_dims(1)?], 1)?; // (b, l, h)
        let by_sums = swap_axes(by_sums.add(at_end)?, 1, 2)?; // (b, h, l)
        let mut d_log_a = swap_axes(cumsum_from(&by_sums)?, 1, 2)?; // (b, l, h)
        if let Some(not_first) = &not_first {
            d_log_a = select(not_first, &d_log_a, Array::from_f32(0.0))?;
        }
        // The heads of a group share B and C.
        let of_groups = |d: Array| -> Result<Array> {
            if g == h {
                return Ok(d);
            }
            let shape = [b, l, g, h / g, n].map(|size| size as i32);
            sum_axis(d.reshape(&shape)?, 3, None)
        };
        Ok(vec![dx, d_log_a, of_groups(dB)?, of_groups(dC)?, dH])
    };
    let inputs = [x, log_a, B, C, H].map(Array::clone);
    let results = with_gradient(forward, backward, &inputs)?;
    let [y, H] = two(&results)?.map(Array::clone);
    Ok((y, H))
}

fn five(arrays: &[Array]) -> Result<[&Array; 5]> {
    let [a, b, c, d, e] = arrays else {
        return Err(Exception::custom("the recurrence has five inputs"));
    };
    Ok([a, b, c, d, e])
}

fn two(arrays: &[Array]) -> Result<[&Array; 2]> {
    let [y, H] = arrays else {
        return Err(Exception::custom("the recurrence has two outputs"));
    };
    Ok([y, H])
}
