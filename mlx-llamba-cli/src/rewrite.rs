//! Shared by `quantize` and `convert`: a progress bar, and Ctrl-C.

use std::ops::ControlFlow;

use anyhow::Result;
use mlx_llamba::store::OnProgress;

use crate::interrupt;
use crate::progress::{Progress, Unit};

/// Runs a rewrite of a checkpoint. An interrupt stops it and leaves nothing behind.
pub(crate) fn watched<T>(
    label: &str,
    work: impl FnOnce(OnProgress<'_>) -> mlx_llamba::Result<T>,
) -> Result<T> {
    interrupt::on_first(|| {})?;
    let bar = Progress::new(label, Unit::Weights);
    Ok(work(&mut |progress| {
        bar.at(progress.done as usize, progress.total as usize);
        if interrupt::happened() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?)
}
