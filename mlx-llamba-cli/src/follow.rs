//! `mlx-llamba generate --follow`

use std::io::Read;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mlx_llamba::evaluate::NegativeLogLikelihood;
use mlx_llamba::follow::{Follow, FollowReport};
use mlx_llamba::units::count;
use mlx_llamba::{Cancel, Context, Llamba};

use crate::output::show;

/// The number of bytes read at once.
const PIECE: usize = 1 << 16;
/// The longest time until Ctrl-C is noticed while no input arrives.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads standard input to its end, or until Ctrl-C, and returns the context reached.
pub(crate) fn follow(
    llamba: &Llamba,
    context: Context,
    every: u64,
    json: bool,
    cancel: &Cancel,
) -> Result<Context> {
    // A thread reads, so that Ctrl-C also ends the wait for input.
    let (sender, pieces) = mpsc::sync_channel(4);
    crate::interrupt::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE];
            let read = input.read(&mut piece);
            let end = matches!(read, Ok(0) | Err(_));
            let piece = read.map(|length| {
                piece.truncate(length);
                piece
            });
            if sender.send(piece).is_err() || end {
                return;
            }
        }
    })?;
    let mut follow = Follow::new(llamba, context, every)?;
    let mut printed = Ok(());
    while !cancel.is_cancelled() && printed.is_ok() {
        match pieces.recv_timeout(PATIENCE) {
            Ok(piece) => {
                let piece = piece.context("reading standard input")?;
                follow.push(&piece, &mut |report| print(report, json, &mut printed))?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let (last, context) = follow.finish(&mut |report| print(report, json, &mut printed))?;
    if last.window.tokens > 0 {
        print(&last, json, &mut printed);
    }
    printed.map(|()| context)
}

/// Prints a report, unless printing has failed before.
fn print(report: &FollowReport, json: bool, printed: &mut Result<()>) {
    if printed.is_err() {
        return;
    }
    let FollowReport { window, total, .. } = report;
    let line = if json {
        serde_json::json!({
            "type": "report", "window": numbers(window), "total": numbers(total),
        })
        .to_string()
    } else {
        format!(
            "{}, {} | last {}: {:.4} nats per token, {:.4} bits per byte | all: {:.4}, {:.4}",
            count(total.tokens, "token"),
            count(total.bytes, "byte"),
            window.tokens,
            window.nats_per_token(),
            window.bits_per_byte(),
            total.nats_per_token(),
            total.bits_per_byte(),
        )
    };
    *printed = show(&(line + "\n"));
}

fn numbers(surprise: &NegativeLogLikelihood) -> serde_json::Value {
    serde_json::json!({
        "tokens": surprise.tokens,
        "bytes": surprise.bytes,
        "nats_per_token": surprise.nats_per_token(),
        "bits_per_byte": surprise.bits_per_byte(),
    })
}
