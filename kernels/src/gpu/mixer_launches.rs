//! The launches of a mixer with gradients: see [`super::mixer_gradient`].

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes, sizes};
use super::recurrence::{Part, RecurrenceCall};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};
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
    /// Elements of a row, which may end with padding.
    pub width: usize,
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
        let TrainingCall { dims, b, l, dtype, width, split_A_log, .. } = *call;
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
        let spans = [("k", k), ("width", width), ("span", SPAN)];
        let reads = if p % 4 == 0 { 4 } else { 1 };
        let A_log: &[usize] = if split_A_log { &[b, l, h] } else { &[1] };
        let y = Output::new(&[b, l, d_inner], dtype);
        let out = |by_y: bool| {
            let flags = [("split_A_log", split_A_log), ("has_z_bias", call.z_bias), ("by_y", by_y)];
            let sized = [("width", width), ("reads", reads)];
            launch(&OUT, &sized, &flags, b * l * d_inner / reads, vec![y.clone()])
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
