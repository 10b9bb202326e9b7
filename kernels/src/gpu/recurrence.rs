//! The launch of `recurrence.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, sizes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

/// Inputs of the kernel, in order.
pub const RECURRENCE_INPUTS: &[&str] = &["u", "v", "w", "a", "start"];
/// Its outputs.
pub const RECURRENCE_OUTPUTS: &[&str] = &["out", "last"];

static RECURRENCE: Source = Source {
    name: "llamba_recurrence",
    inputs: RECURRENCE_INPUTS,
    outputs: RECURRENCE_OUTPUTS,
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/recurrence.metal"),
};

/// Threads that share rows of a state (a power of two), rows that they share (at most as many), tokens in
/// threadgroup memory, and simdgroups of a threadgroup at most.
const LANES: usize = 8;
const PER: usize = 4;
const STEPS: usize = 16;
const SIMDGROUPS: usize = 8;

/// The place of an array of heads inside the rows of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Heads; divides those of the states.
    pub heads: usize,
    /// Elements of a row of the larger array.
    pub row: usize,
    /// Elements of a row before the first head.
    pub at: usize,
}

impl Part {
    /// An array (b, l, heads, width) of its own.
    #[must_use]
    pub fn whole(heads: usize, width: usize) -> Self {
        Self { heads, row: heads * width, at: 0 }
    }
}

/// The sizes of a launch of `recurrence.metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrenceCall {
    /// Sequences.
    pub b: usize,
    /// Tokens.
    pub l: usize,
    /// Heads of the states.
    pub h: usize,
    /// The places of u, v and w.
    pub parts: [Part; 3],
    /// Rows of a state.
    pub rows: usize,
    /// Columns of a state.
    pub columns: usize,
    /// From the last token to the first.
    pub reverse: bool,
}

/// Returns the launch of `recurrence.metal`. u, v and w are float, the other arrays float32.
///
/// # Errors
/// [`LaunchError::Unsupported`] for empty arrays, and for more than 128 columns.
pub fn recurrence_launch(call: &RecurrenceCall) -> Result<Launch, LaunchError> {
    let simdgroups = call.rows.div_ceil(32 / LANES * PER).min(SIMDGROUPS);
    let threads = 32 * simdgroups;
    let tile = threads / LANES * PER;
    let width = call.columns.next_multiple_of(LANES);
    let own = [("lanes", LANES), ("per", PER), ("steps", STEPS), ("simdgroups", simdgroups)];
    let launch = blocks_of(call, &RECURRENCE, tile, threads, own)?;
    Ok(Launch { threadgroup_bytes: 4 * STEPS * (tile + 2 * width + 1), ..launch })
}

/// Returns the launch of a kernel whose blocks of `threads` have `tile` rows of the state of a head each, and
/// that has template arguments of its `own`.
///
/// # Errors
/// As [`recurrence_launch`].
pub(crate) fn blocks_of<const N: usize>(
    call: &RecurrenceCall,
    source: &'static Source,
    tile: usize,
    threads: usize,
    own: [(&'static str, usize); N],
) -> Result<Launch, LaunchError> {
    let RecurrenceCall { b, l, h, parts: [u, v, w], rows, columns, reverse } = *call;
    let unsupported = |reason: String| Err(LaunchError::Unsupported(reason));
    if columns > 128 {
        return unsupported(format!("a row of {columns} does not fit in registers"));
    }
    if [b, l, h, rows, columns].contains(&0) {
        return unsupported("there are no states".to_owned());
    }
    let blocks = b * h * rows.div_ceil(tile);
    let Ok(grid) = i32::try_from(threads * blocks) else {
        return unsupported(format!("{blocks} blocks have more threads than a grid may have"));
    };
    let mut template: Vec<_> =
        sizes([("h", h), ("hu", u.heads), ("hv", v.heads), ("hw", w.heads)]).collect();
    template.extend(sizes([("u_row", u.row), ("u_at", u.at), ("v_row", v.row), ("v_at", v.at)]));
    template.extend(sizes([
        ("w_row", w.row),
        ("w_at", w.at),
        ("rows", rows),
        ("columns", columns),
    ]));
    template.extend(sizes(own));
    template.push(("reverse", Argument::Bool(reverse)));
    Ok(Launch {
        source,
        template,
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![
            Output::new(&[b, l, h, rows], Dtype::Float32),
            Output::new(&[b, h, rows, columns], Dtype::Float32),
        ],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}
