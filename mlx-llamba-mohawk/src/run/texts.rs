//! The text of a run: the part to train on, and the held-out part.

use std::path::Path;
use std::rc::Rc;

use super::{Note, OnNote};
use crate::Result;
use crate::data::{Corpus, Encoder, Packing, Sources, Windows, held_out, is_held_out, tokenize};
use crate::evaluate::Document;
use crate::recipe::{DataOptions, EvaluationOptions};

/// The text of a run.
pub(super) struct Texts {
    corpus: Rc<Corpus>,
    /// The interval between held-out documents.
    every: usize,
    resets: bool,
    packing: Packing,
    pub(super) held_out: Vec<Document>,
}

impl Texts {
    /// Reads the text at `path` and its held-out documents.
    pub(super) fn open(
        path: &Path,
        data: &DataOptions,
        evaluation: &EvaluationOptions,
        encoder: &Encoder,
        cache: &Path,
        tell: OnNote<'_>,
    ) -> Result<Self> {
        let mut read = |path: &Path| {
            let sources = Sources::new(path, &data.field)?;
            // A single document would be held out, with nothing left to train on.
            let split = data.heldout.is_none() && data.heldout_every > 0;
            let sources = if split { sources.split() } else { sources };
            tokenize(&sources, encoder, cache, &mut |progress| tell(Note::Tokenizing(progress)))
        };
        let corpus = Rc::new(read(path)?);
        let EvaluationOptions { tokens, length, .. } = *evaluation;
        let (every, held_out) = match &data.heldout {
            _ if tokens == 0 => (data.heldout_every, Vec::new()),
            Some(path) => {
                let other = read(path)?;
                (0, held_out(&other, 0..other.documents(), tokens, length))
            }
            None => {
                let every = data.heldout_every;
                let numbers = (0..corpus.documents()).filter(|&i| is_held_out(i, every));
                (every, held_out(&corpus, numbers, tokens, length))
            }
        };
        let (resets, packing) = (data.resets, data.packing);
        Ok(Self { corpus, every, resets, packing, held_out })
    }

    pub(super) fn hash(&self) -> &str {
        self.corpus.hash()
    }

    /// The number of held-out tokens to read.
    pub(super) fn held_out_tokens(&self) -> u64 {
        self.held_out.iter().map(|document| document.tokens.len() as u64).sum()
    }

    /// Returns windows over the documents to train on.
    pub(super) fn windows(&self, length: usize, names: &[u64]) -> Result<Windows> {
        let kept = (0..self.corpus.documents()).filter(|&i| !is_held_out(i, self.every));
        let windows = Windows::new(&self.corpus, kept, length, self.resets, names)?;
        Ok(windows.packing(self.packing))
    }
}
