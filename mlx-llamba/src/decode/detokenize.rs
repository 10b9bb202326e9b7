//! Incremental conversion of token ids to text.

#[cfg(test)]
mod tests;

use crate::tokenizer::Tokenizer;

/// Turns token ids into text, one at a time.
///
/// A character that spans several tokens is returned with the last of them. All pieces together,
/// with that of [`Detokenizer::flush`], are the result of [`Tokenizer::decode`] on all ids, except
/// that the space with which SentencePiece's tokenizers begin a text is kept: streamed text
/// continues another text. Nothing is decoded twice: at most three bytes wait for the rest of their
/// character.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts a text. With `skip_special`, special tokens yield no text.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self::resume(tokenizer, skip_special, &[])
    }

    /// Continues a text whose [`Detokenizer::tail`] was kept.
    #[must_use]
    pub fn resume(tokenizer: &Tokenizer, skip_special: bool, tail: &[u8]) -> Self {
        Self { tokenizer: tokenizer.clone(), skip_special, pending: tail.to_vec() }
    }

    /// Returns the text that `id` completes, which may be empty. Invalid UTF-8 becomes U+FFFD; an
    /// unknown id yields nothing.
    pub fn push(&mut self, id: u32) -> String {
        self.tokenizer.push_bytes(id, self.skip_special, &mut self.pending);
        let mut text = String::new();
        let mut done = 0;
        while done < self.pending.len() {
            let rest = &self.pending[done..];
            let (valid, invalid) = match std::str::from_utf8(rest) {
                Ok(_) => (rest.len(), 0),
                Err(e) => match e.error_len() {
                    Some(invalid) => (e.valid_up_to(), invalid),
                    // The beginning of a character: wait for the rest of it.
                    None if e.valid_up_to() == 0 => break,
                    None => (e.valid_up_to(), 0),
                },
            };
            text.push_str(&String::from_utf8_lossy(&rest[..valid + invalid]));
            done += valid + invalid;
        }
        self.pending.drain(..done);
        text
    }

    /// Ends the text: an incomplete character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// The bytes that wait for the rest of their character, at most three. They are all that is needed
    /// to continue the text later.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.pending
    }
}
