//! Reading an endless text in constant memory.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::evaluate::{NegativeLogLikelihood, log_probs, losses};
use crate::host;
use crate::llamba::Llamba;
use crate::pieces::Pieces;
use crate::tokenizer::Tokenizer;

/// The largest number of tokens per forward pass.
const PIECE: usize = 256;

/// The predictions since the last report, and all of them.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct FollowReport {
    /// Since the last report.
    pub window: NegativeLogLikelihood,
    /// Since the beginning.
    pub total: NegativeLogLikelihood,
}

/// Reads a stream of text and reports how well it is predicted.
///
/// The last word waits until it is known to be complete (see [`Pieces`]). Bytes that are not UTF-8
/// are read as U+FFFD.
pub struct Follow<'m> {
    llamba: &'m Llamba,
    tokenizer: &'m Tokenizer,
    context: Context,
    every: u64,
    pieces: Pieces,
    now: FollowReport,
}

impl<'m> Follow<'m> {
    /// Continues from `context`, with a report after every `every` tokens predicted (at least 1).
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`](crate::Error::TokenizerMissing).
    pub fn new(llamba: &'m Llamba, context: Context, every: u64) -> Result<Self> {
        let tokenizer = llamba.require_tokenizer()?;
        let now = FollowReport::default();
        Ok(Self { llamba, tokenizer, context, every: every.max(1), pieces: Pieces::default(), now })
    }

    /// Reads the next bytes of the text and calls `report` whenever a report is due.
    ///
    /// # Errors
    /// Those of the tokenizer and the model.
    pub fn push(&mut self, mut bytes: &[u8], report: &mut dyn FnMut(&FollowReport)) -> Result<()> {
        while let Some(piece) = self.pieces.push(&mut bytes) {
            self.read_text(&piece, report)?;
        }
        Ok(())
    }

    /// Reads the bytes that are waiting. Returns the last, incomplete report and the context reached.
    ///
    /// # Errors
    /// Those of the tokenizer and the model.
    pub fn finish(
        mut self,
        report: &mut dyn FnMut(&FollowReport),
    ) -> Result<(FollowReport, Context)> {
        let piece = self.pieces.rest();
        self.read_text(&piece, report)?;
        self.context.state.eval()?;
        Ok((self.now, self.context))
    }

    fn read_text(&mut self, piece: &[u8], report: &mut dyn FnMut(&FollowReport)) -> Result<()> {
        let text = String::from_utf8_lossy(piece);
        if text.is_empty() {
            return Ok(());
        }
        let ids = self.tokenizer.encode(&text, self.context.is_empty())?;
        ids.chunks(PIECE).try_for_each(|ids| self.read(ids, report))
    }

    /// Reads all but the last of `ids`, which waits for the next call, and counts their predictions.
    fn read(&mut self, ids: &[u32], report: &mut dyn FnMut(&FollowReport)) -> Result<()> {
        let mut targets = ids;
        self.context.position.note(ids);
        if self.context.is_empty() {
            // Nothing predicts the first token.
            let Some((first, rest)) = ids.split_first() else { return Ok(()) };
            self.context.position.pending = vec![*first];
            targets = rest;
        }
        let Some((last, before)) = targets.split_last() else { return Ok(()) };
        let inputs = [self.context.pending(), before].concat();
        let model = self.llamba.model();
        let (tokens, _) = model.tokens(&[&inputs])?; // (1, l)
        let (hidden, state) = model.hidden(&tokens, None, &self.context.state)?;
        let skipped = (inputs.len() - targets.len()) as i32;
        let logits = model.head(&hidden.try_index((0, skipped.., ..))?)?; // (l, vocab)
        let log_probs = log_probs(&logits, model.config().vocab_size)?; // (l, vocab)
        let next = Array::from_slice(targets, &[targets.len() as i32]); // (l)
        let losses = host::floats(&losses(&log_probs, &next)?)?;
        state.eval()?;
        self.context.state = state;
        self.context.position.read += inputs.len() as u64;
        self.context.position.pending = vec![*last];
        for (&id, loss) in targets.iter().zip(losses) {
            let mut bytes = Vec::new();
            self.tokenizer.push_bytes(id, true, &mut bytes);
            self.now.window.add(bytes.len() as u64, f64::from(loss));
            self.now.total.add(bytes.len() as u64, f64::from(loss));
            if self.now.window.tokens == self.every {
                report(&self.now);
                self.now.window = NegativeLogLikelihood::default();
            }
        }
        Ok(())
    }
}
