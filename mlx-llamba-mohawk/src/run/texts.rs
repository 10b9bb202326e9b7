//! The text of a run: the part to train on, and the held-out part.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Note, OnNote};
use crate::Result;
use crate::data::{Encoder, Packing, Part, Sources, Windows, held_out, is_held_out, tokenize};
use crate::evaluate::Document;
use crate::recipe::{DataOptions, EvaluationOptions};

/// The text of a run.
pub(super) struct Texts {
    /// The documents to train on of each source.
    parts: Vec<Part>,
    weights: Vec<f64>,
    resets: bool,
    packing: Packing,
    pub(super) held_out: Vec<Document>,
}

impl Texts {
    /// Reads the text at `paths` and its held-out documents, as many of each source.
    pub(super) fn open(
        paths: &[PathBuf],
        data: &DataOptions,
        evaluation: &EvaluationOptions,
        encoder: &Encoder,
        cache: &Path,
        tell: OnNote<'_>,
    ) -> Result<Self> {
        if !data.weights.is_empty() && data.weights.len() != paths.len() {
            let found = (data.weights.len(), paths.len());
            let reason = format!("{} for {} of --data: give one of each", found.0, found.1);
            return Err(crate::recipe::bad("the recipe", "data.weights", reason));
        }
        let mut read = |path: &Path| {
            let sources = Sources::new(path, &data.field)?;
            // A single document would be held out, with nothing left to train on.
            let split = data.heldout.is_none() && data.heldout_every > 0;
            let sources = if split { sources.split() } else { sources };
            tokenize(&sources, encoder, cache, &mut |progress| tell(Note::Tokenizing(progress)))
        };
        let EvaluationOptions { tokens, length, .. } = *evaluation;
        let every = if data.heldout.is_some() && tokens > 0 { 0 } else { data.heldout_every };
        let (mut parts, mut documents) = (Vec::new(), Vec::new());
        for path in paths {
            let corpus = Rc::new(read(path)?);
            let (kept, rest) = (0..corpus.documents()).partition(|&i| !is_held_out(i, every));
            let rest: Vec<usize> = rest;
            if tokens > 0 {
                documents.extend(held_out(&corpus, rest.into_iter(), tokens / paths.len(), length));
            }
            parts.push(Part { corpus, documents: kept });
        }
        if let Some(path) = data.heldout.as_ref().filter(|_| tokens > 0) {
            let other = read(path)?;
            documents = held_out(&other, 0..other.documents(), tokens, length);
        }
        let (resets, packing, weights) = (data.resets, data.packing, data.weights.clone());
        Ok(Self { parts, weights, resets, packing, held_out: documents })
    }

    /// Identifies the text.
    pub(super) fn hash(&self) -> String {
        let hashes: Vec<&str> = self.parts.iter().map(|part| &part.corpus.hash()[..16]).collect();
        hashes.join(" ")
    }

    /// The number of held-out tokens to read.
    pub(super) fn held_out_tokens(&self) -> u64 {
        self.held_out.iter().map(|document| document.tokens.len() as u64).sum()
    }

    /// Returns windows over the documents to train on.
    pub(super) fn windows(&self, length: usize, names: &[u64]) -> Result<Windows> {
        let windows = Windows::of_parts(&self.parts, length, self.resets, names)?;
        let windows = windows.packing(self.packing);
        if self.weights.is_empty() { Ok(windows) } else { windows.weights(&self.weights) }
    }
}
