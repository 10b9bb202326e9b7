//! Shared by `quantize` and `convert`: a progress bar, and Ctrl-C.

use anyhow::Result;
use mlx_llamba::progress::OnProgress;

use crate::interrupt;
use crate::progress::{Progress, Unit};

/// Runs a rewrite of a checkpoint. An interrupt stops it and leaves nothing behind.
pub(crate) fn watched<T>(
    label: &str,
    work: impl FnOnce(OnProgress<'_>) -> mlx_llamba::Result<T>,
) -> Result<T> {
    interrupt::on_first(|| {})?;
    Ok(work(&mut Progress::new(label, Unit::Weights).callback())?)
}
