//! A prompt that is read in chunks.

use mlx_rs::DeviceType;

use super::generation::Generation;
use crate::context::{Context, Position};
use crate::error::Result;
use crate::language::LanguageModel;
use crate::tokens;

/// Returns the size of the chunks in which a prompt is read unless options say otherwise, in tokens.
/// The products of a GPU are slower with fewer rows; a CPU's caches hold no more.
#[must_use]
pub fn prefill_of(device: DeviceType) -> usize {
    match device {
        DeviceType::Cpu => 512,
        DeviceType::Gpu => 2048,
    }
}

/// A prompt of which the first tokens have been read.
pub(super) struct Prefill<S> {
    /// The tokens to read. They begin with those that were pending in the context.
    pub(super) ids: Vec<u32>,
    /// The number of tokens read.
    pub(super) read: usize,
    /// The state after the tokens read.
    pub(super) state: S,
    /// The position after the tokens read.
    pub(super) position: Position,
    /// The number of tokens to read: all, or all but the last if no token is to be generated.
    limit: usize,
    /// Positions at which a chunk must leave exactly one token pending.
    snapshots: Vec<usize>,
}

impl<S> Prefill<S> {
    /// Continues from `context` with the tokens of `prompt`.
    ///
    /// # Errors
    /// Those of [`Stream::new`](super::stream::Stream::new).
    pub(super) fn new(
        model: &impl LanguageModel<State = S>,
        context: Context<S>,
        prompt: &[u32],
        options: &Generation,
        mut snapshots: Vec<usize>,
    ) -> Result<Self> {
        options.validate(model.vocab_size())?;
        let Context { state, position } = context;
        let ids = [&position.pending, prompt].concat();
        tokens::check(&[&ids], model.vocab_size())?;
        let limit = if options.max_tokens > 0 { ids.len() } else { ids.len() - 1 };
        // At earlier positions the context is the caller's own.
        let first = position.pending.len().max(1);
        snapshots.retain(|&snapshot| snapshot > first && snapshot <= ids.len());
        Ok(Self { ids, read: 0, state, position, limit, snapshots })
    }

    /// The number of tokens of the prompt.
    pub(super) fn total(&self) -> usize {
        self.ids.len()
    }

    /// Returns true if nothing is left to read.
    pub(super) fn is_done(&self) -> bool {
        self.read == self.limit
    }

    /// The end of the next chunk, which has at most `chunk` tokens.
    pub(super) fn end(&self, chunk: usize) -> usize {
        let cuts = self.snapshots.iter().map(|&snapshot| snapshot - 1);
        let end = self.limit.min(self.read + chunk);
        cuts.filter(|&cut| cut > self.read).fold(end, usize::min)
    }

    /// The tokens up to `end`.
    pub(super) fn chunk(&self, end: usize) -> &[u32] {
        &self.ids[self.read..end]
    }

    /// Moves to `end`. The caller sets the state there.
    pub(super) fn advance(&mut self, end: usize) {
        self.position.advance(&self.ids[self.read..end]);
        self.read = end;
    }

    /// The context to report at the present position, if one was requested there.
    pub(super) fn snapshot(&self) -> Option<Context<S>>
    where
        S: Clone,
    {
        if !self.snapshots.contains(&(self.read + 1)) {
            return None;
        }
        let mut position = self.position.clone();
        position.defer(&self.ids[self.read..=self.read]);
        Some(Context { state: self.state.clone(), position })
    }

    /// Leaves the rest of the prompt to whoever continues from the context.
    pub(super) fn into_context(mut self) -> Context<S> {
        self.position.defer(&self.ids[self.read..]);
        Context { state: self.state, position: self.position }
    }
}
