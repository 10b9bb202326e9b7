//! Text out of a stream of token ids, whole characters only.

#[cfg(test)]
mod tests;

use crate::tokenizer::Tokenizer;

/// Turns token ids into text, one at a time.
///
/// A character can be spread over several tokens; it is given out with the last of them. All
/// pieces together, with that of [`Detokenizer::flush`], are what [`Tokenizer::decode`] makes of
/// all ids at once, but for the space in front of a text of SentencePiece's tokenizers: what is
/// streamed goes on with a text, and needs it. Nothing is decoded twice: at most three bytes wait
/// for their character.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts a text. With `skip_special`, special tokens give no text.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Self {
        Self::resume(tokenizer, skip_special, &[])
    }

    /// Goes on with a text whose [`Detokenizer::tail`] was kept.
    #[must_use]
    pub fn resume(tokenizer: &Tokenizer, skip_special: bool, tail: &[u8]) -> Self {
        Self { tokenizer: tokenizer.clone(), skip_special, pending: tail.to_vec() }
    }

    /// The text that `id` completes, often empty. Bytes that can be no character become U+FFFD;
    /// an id that the tokenizer does not know gives nothing.
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

    /// Ends the text: the beginning of a character that never came becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// The bytes that wait for the rest of their character, at most three: all that has to be
    /// kept to go on with the text later.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.pending
    }
}
