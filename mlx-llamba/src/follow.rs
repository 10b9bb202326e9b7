//! Reading a text without an end: as it comes, at constant memory.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexOp, take_along_axis};
use mlx_rs::ops::logsumexp_axis;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::host;
use crate::llamba::Llamba;
use crate::tokenizer::Tokenizer;

/// Tokens read in one piece.
const PIECE: usize = 256;
/// Bytes that wait for a place to cut the text; then it is cut anywhere.
const LONGEST: usize = 1 << 16;

/// How well the model predicted some tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Surprise {
    /// Tokens predicted.
    pub tokens: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Sum of their negative log-likelihoods, in nats.
    pub nats: f64,
}

impl Surprise {
    /// Mean negative log-likelihood of a token, in nats.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.nats / self.tokens as f64 }
    }

    /// The same in bits a byte of text, which does not depend on the tokenizer.
    #[must_use]
    pub fn bits_per_byte(&self) -> f64 {
        let bits = self.nats / std::f64::consts::LN_2;
        if self.bytes == 0 { 0.0 } else { bits / self.bytes as f64 }
    }

    fn add(&mut self, bytes: u64, nats: f64) {
        self.tokens += 1;
        self.bytes += bytes;
        self.nats += nats;
    }
}

/// What was predicted since the last report, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct FollowReport {
    /// Since the last report.
    pub window: Surprise,
    /// Since the beginning.
    pub total: Surprise,
}

/// Reads a stream of text and tells how well it was predicted.
///
/// Text is cut into pieces where tokenizers cut it anyway: before a single space between words
/// and after a single line break between lines. So the tokens are those of the whole text. The
/// last word waits until it is known to be whole. Bytes that are no UTF-8 count as U+FFFD.
pub struct Follow<'m> {
    llamba: &'m Llamba,
    tokenizer: &'m Tokenizer,
    context: Context,
    every: u64,
    /// Bytes that are not yet tokens.
    waiting: Vec<u8>,
    now: FollowReport,
}

impl<'m> Follow<'m> {
    /// Goes on from `context`, with a report after every `every` tokens predicted (at least 1).
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`](crate::Error::TokenizerMissing).
    pub fn new(llamba: &'m Llamba, context: Context, every: u64) -> Result<Self> {
        let tokenizer = llamba.require_tokenizer()?;
        let now = FollowReport::default();
        Ok(Self { llamba, tokenizer, context, every: every.max(1), waiting: Vec::new(), now })
    }

    /// Takes the next bytes of the text; `report` is called as often as is due.
    ///
    /// # Errors
    /// Those of the tokenizer and the model.
    pub fn push(&mut self, bytes: &[u8], report: &mut dyn FnMut(&FollowReport)) -> Result<()> {
        for bytes in bytes.chunks(LONGEST) {
            self.waiting.extend_from_slice(bytes);
            if let Some(cut) = cut(&self.waiting) {
                let rest = self.waiting.split_off(cut);
                let piece = std::mem::replace(&mut self.waiting, rest);
                self.read_text(&piece, report)?;
            }
        }
        Ok(())
    }

    /// Reads what still waits. Gives the last, unfinished report and the place reached.
    ///
    /// # Errors
    /// Those of the tokenizer and the model.
    pub fn finish(
        mut self,
        report: &mut dyn FnMut(&FollowReport),
    ) -> Result<(FollowReport, Context)> {
        let piece = std::mem::take(&mut self.waiting);
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

    /// Reads all up to the last of `ids`, which waits for the next call, and notes how well each
    /// of them was predicted.
    fn read(&mut self, ids: &[u32], report: &mut dyn FnMut(&FollowReport)) -> Result<()> {
        let mut targets = ids;
        self.context.note(ids);
        if self.context.is_empty() {
            // Nothing predicts the first token.
            let Some((first, rest)) = ids.split_first() else { return Ok(()) };
            self.context.pending = vec![*first];
            targets = rest;
        }
        let Some((last, before)) = targets.split_last() else { return Ok(()) };
        let inputs = [self.context.pending.as_slice(), before].concat();
        let model = self.llamba.model();
        let (tokens, _) = model.tokens(&[&inputs])?; // (1, l)
        let (hidden, state) = model.hidden(&tokens, None, &self.context.state)?;
        let skipped = (inputs.len() - targets.len()) as i32;
        let logits = model.head(&hidden.try_index((0, skipped.., ..))?)?; // (l, vocab)
        let logits = logits.try_index((.., ..model.config().vocab_size as i32))?;
        let places = Array::from_slice(targets, &[targets.len() as i32, 1]); // (l, 1)
        let chosen = take_along_axis(&logits, &places, 1)?; // (l, 1)
        let losses = host::floats(&logsumexp_axis(&logits, -1, true)?.subtract(chosen)?)?;
        state.eval()?;
        self.context.state = state;
        self.context.read += inputs.len() as u64;
        self.context.pending = vec![*last];
        for (&id, loss) in targets.iter().zip(losses) {
            let mut bytes = Vec::new();
            self.tokenizer.push_bytes(id, true, &mut bytes);
            self.now.window.add(bytes.len() as u64, f64::from(loss));
            self.now.total.add(bytes.len() as u64, f64::from(loss));
            if self.now.window.tokens == self.every {
                report(&self.now);
                self.now.window = Surprise::default();
            }
        }
        Ok(())
    }
}

/// The last place where the text can be cut.
fn cut(text: &[u8]) -> Option<usize> {
    let space = |byte: u8| byte.is_ascii_whitespace();
    let between = |i: &usize| match text[i - 2..=i + 1] {
        // before| after
        [_, a, b' ', c] if !space(a) && !space(c) => true,
        // before\n|after
        [a, b'\n', b, _] => !space(a) && !space(b),
        _ => false,
    };
    let found = (2..text.len().saturating_sub(1)).rev().find(between);
    found.or_else(|| (text.len() >= LONGEST).then(|| whole_characters(text)))
}

/// Up to the beginning of the last character.
fn whole_characters(text: &[u8]) -> usize {
    let begins = |i: &usize| text[*i] & 0xc0 != 0x80;
    (text.len().saturating_sub(4)..text.len()).rev().find(begins).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, cut};

    #[test]
    fn texts_are_cut_between_words_and_lines() {
        let at = |text: &str| cut(text.as_bytes()).map(|i| text.split_at(i));
        assert_eq!(at("one two three"), Some(("one two", " three")));
        assert_eq!(at("one two "), Some(("one", " two ")));
        assert_eq!(at("one\ntwo"), Some(("one\n", "two")));
        assert_eq!(at("one  two"), None);
        assert_eq!(at("one\n\ntwo"), None);
        assert_eq!(at("one\r\ntwo"), None);
        assert_eq!(at("one \u{a0}x"), Some(("one", " \u{a0}x")));
        assert_eq!(at(" a"), None);
        assert_eq!(at(""), None);
        let long = "é".repeat(LONGEST);
        assert_eq!(at(&long).map(|(head, _)| head.len()), Some(long.len() - 2));
    }
}
