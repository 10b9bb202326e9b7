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

use super::Run;
use super::call::{LaunchError, float_bytes, sizes};
use super::recurrence::{Part, RecurrenceCall};
use crate::mixer::{Mixed, MixerInput, MixerState, MixerWeights};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};
use crate::mlx::{Result, with_gradient};
use crate::scan::cumsum_from;
use crate::{Activation, Dims};

static IN: Source = Source {
    name: "llamba_mixer_in",
    inputs: &["rows", "A_log", "starts", "conv", "conv_weight", "conv_bias"],
    outputs: &["mixed", "decays", "kept"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/mixer_in.metal"),
};

static OUT: Source = Source {
    name: "llamba_mixer_out",
    inputs: &["rows", "mixed", "y", "z_bias", "D"],
    outputs: &["out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/mixer_out.metal"),
};

static SUMS: Source = Source {
    name: "llamba_mixer_sums",
    inputs: &["dy", "y", "mixed", "dx", "at_end"],
    outputs: &["sums"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/mixer_sums.metal"),
};

/// `by_decays` (b, h, l) is the gradient with respect to the logarithms of the decays, `d_out` and `dy`
/// (b, l, d_inner) are those with respect to the mixer's y and the recurrence's.
static IN_GRADIENT: Source = Source {
    name: "llamba_mixer_in_gradient",
    inputs: &[
        "rows",
        "A_log",
        "starts",
        "conv",
        "conv_weight",
        "conv_bias",
        "z_bias",
        "D",
        "mixed",
        "y",
        "d_out",
        "dy",
        "dx",
        "dB",
        "dC",
        "d_kept",
        "by_decays",
    ],
    outputs: &["d_rows", "d_A_log", "d_conv", "d_taps", "d_gate"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/mixer_in_gradient.metal"),
};

/// Tokens of a thread of the kernels that convolve.
const SPAN: usize = 64;
/// Threads of a threadgroup.
const THREADS: usize = 256;

/// Everything that the launches of a mixer with gradients depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingCall {
    /// Sizes of the mixer.
    pub dims: Dims,
    /// Sequences.
    pub b: usize,
    /// Tokens.
    pub l: usize,
    /// Activations: float32, float16 or bfloat16.
    pub dtype: Dtype,
    /// `A_log` (b, l, h) is an array of its own, not part of the rows.
    pub split_A_log: bool,
    /// Documents start inside the rows.
    pub starts: bool,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// The gate has a bias.
    pub z_bias: bool,
    /// After the convolution.
    pub activation: Activation,
}

/// The launches of a mixer with gradients, in the order of their use.
#[derive(Debug, Clone)]
pub struct TrainingLaunches {
    /// `mixer_in.metal`: the convolved rows (b, l, conv_dim), the decays (b, l, h), the state to keep.
    pub before: Launch,
    /// `recurrence.metal`: y and the state.
    pub recurrence: Launch,
    /// `mixer_out.metal`: the mixer's y.
    pub after: Launch,
    /// `mixer_out.metal` backward: dy.
    pub by_y: Launch,
    /// `recurrence.metal` as dC, dx and dB; those of heads that share B and C come apart.
    pub by_parts: [Launch; 3],
    /// `mixer_sums.metal`.
    pub sums: Launch,
    /// `mixer_in_gradient.metal`. Where A_log is part of the rows, its own gradient is an element without
    /// meaning.
    pub by_rows: Launch,
}

/// A function that chooses the launch of a recurrence.
pub type ChooseRecurrence = fn(&RecurrenceCall) -> Result<Launch, LaunchError>;

impl TrainingLaunches {
    /// Makes the launches, those of recurrences by `recurrence`.
    ///
    /// # Errors
    /// [`LaunchError::Unsupported`] for p or n above 128, for k = 1 and fewer than k tokens, other
    /// dtypes and more threads than a grid has.
    pub fn new(call: &TrainingCall, recurrence: ChooseRecurrence) -> Result<Self, LaunchError> {
        let TrainingCall { dims, b, l, dtype, split_A_log, .. } = *call;
        let Dims { h, g, p, n, k } = dims;
        float_bytes(dtype)?;
        if k < 2 || l < k {
            let reason = format!("{l} tokens and {k} taps have no kernel with gradients");
            return Err(LaunchError::Unsupported(reason));
        }
        let (d_inner, conv_dim) = (dims.d_inner(), dims.conv_dim());
        let (float, parts) = (Dtype::Float32, b * l.div_ceil(SPAN));
        let flags = |wanted: &[(&'static str, bool)]| -> Vec<(&'static str, Argument)> {
            wanted.iter().map(|&(name, flag)| (name, Argument::Bool(flag))).collect()
        };
        let launch = |source: &'static Source,
                      sized: &[(&'static str, usize)],
                      flagged: &[(&'static str, bool)],
                      threads: usize,
                      outputs: Vec<Output>| {
            let mut template = vec![("T", Argument::Dtype(dtype))];
            template.extend(sizes([("h", h), ("g", g), ("p", p), ("n", n)]));
            template.extend(sized.iter().map(|&(name, size)| (name, Argument::Int(size as i32))));
            template.extend(flags(flagged));
            let threads = threads.next_multiple_of(THREADS);
            let grid = i32::try_from(threads).map_err(|_| {
                let reason = format!("{threads} threads are more than a grid has");
                LaunchError::Unsupported(reason)
            })?;
            Ok::<_, LaunchError>(Launch {
                source,
                template,
                grid: (grid, 1, 1),
                threadgroup: (THREADS as i32, 1, 1),
                outputs,
                threadgroup_bytes: 0,
                dynamic_bytes: 0,
            })
        };
        let in_flags = [
            ("split_A_log", split_A_log),
            ("has_starts", call.starts),
            ("has_conv_bias", call.conv_bias),
            ("silu_conv", call.activation == Activation::Silu),
        ];
        let spans = [("k", k), ("span", SPAN)];
        let width = dims.in_proj_dim() - if split_A_log { h } else { 0 };
        let A_log: &[usize] = if split_A_log { &[b, l, h] } else { &[1] };
        let y = Output::new(&[b, l, d_inner], dtype);
        let out = |by_y: bool| {
            let flags = [("split_A_log", split_A_log), ("has_z_bias", call.z_bias), ("by_y", by_y)];
            launch(&OUT, &[], &flags, b * l * d_inner, vec![y.clone()])
        };
        let (x, B, C) = (0, d_inner, d_inner + g * n);
        let mixed = |heads, at| Part { heads, row: conv_dim, at };
        let (x, B, C, dy) = (mixed(h, x), mixed(g, B), mixed(g, C), Part::whole(h, p));
        let recur = |parts, rows, columns, reverse| {
            recurrence(&RecurrenceCall { b, l, h, parts, rows, columns, reverse })
        };
        Ok(Self {
            before: launch(
                &IN,
                &spans,
                &in_flags,
                parts * (conv_dim + h),
                vec![
                    Output::new(&[b, l, conv_dim], dtype),
                    Output::new(&[b, l, h], float),
                    Output::new(&[b, k - 1, conv_dim], dtype),
                ],
            )?,
            recurrence: recur([x, B, C], p, n, false)?,
            after: out(false)?,
            by_y: out(true)?,
            by_parts: [
                recur([B, x, dy], n, p, false)?,
                recur([dy, C, B], p, n, true)?,
                recur([C, dy, x], n, p, true)?,
            ],
            sums: launch(&SUMS, &[], &[], 32 * b * l * h, vec![Output::new(&[b, h, l], float)])?,
            by_rows: launch(
                &IN_GRADIENT,
                &spans,
                &[&in_flags[..], &[("has_z_bias", call.z_bias)]].concat(),
                parts * (conv_dim + d_inner + h),
                vec![
                    Output::new(&[b, l, width], dtype),
                    Output::new(A_log, dtype),
                    Output::new(&[b, k - 1, conv_dim], dtype),
                    Output::new(&[parts, k + 1, conv_dim], float),
                    Output::new(&[parts, 2, d_inner], float),
                ],
            )?,
        })
    }
}

impl TrainingLaunches {
    /// All of them, in the order of their use.
    #[must_use]
    pub fn all(&self) -> Vec<&Launch> {
        let Self { before, recurrence, after, by_y, by_parts, sums, by_rows } = self;
        let mut all = vec![before, recurrence, after, by_y];
        all.extend(by_parts);
        all.extend([sums, by_rows]);
        all
    }
}

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
        split_A_log: A_log.is_some(),
        starts: starts.is_some(),
        conv_bias: conv_bias.is_some(),
        z_bias: z_bias.is_some(),
        activation,
    };
    let launches = TrainingLaunches::new(&call, recurrence)?;
    let there = [A_log.is_some(), conv_bias.is_some(), z_bias.is_some()];
    let missing = Array::from_slice(&[0.0f32], &[1]);
    let starts = match starts {
        Some(starts) => starts.as_dtype(Dtype::Int32)?,
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
        let wrong = |_| Exception::custom("a launch with other outputs than it has");
        (self.run)(launch, inputs)?.try_into().map_err(wrong)
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
            d_weight.t().as_dtype(conv_weight.dtype())?,
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
