//! Converts text to token ids and back.

mod files;
mod pieces;
mod rendered;
mod spelled;
mod templates;
#[cfg(test)]
mod tests;
#[cfg(feature = "constraints")]
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "constraints")]
use std::sync::OnceLock;

use crate::files::TokenizerFiles;
use crate::files::hash;
use crate::sample::Sampling;
use crate::{Error, Result};
use files::{Parsed, SpecialTokens, Spelling};
use pieces::Pieces;
pub use rendered::Rendered;
use spelled::Spelled;
#[cfg(feature = "chat")]
pub(crate) use templates::{ChatTemplates, DEFAULT};
#[cfg(feature = "constraints")]
pub(crate) use vocabulary::Vocabulary;

/// Bytes of memory that the `tokenizers` library takes for each byte of a text, as measured (130).
const PER_BYTE: usize = 160;

/// A tokenizer in the format of the `tokenizers` library: byte-level like Llama 3's, or
/// SentencePiece's like Llama 2's.
///
/// A clone shares everything. All methods can be called from any thread.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special: SpecialTokens,
    spelled: Spelled,
    pieces: Pieces,
    spelling: Spelling,
    /// Of the vocabulary without added tokens.
    largest_id: u32,
    fingerprint: String,
    /// Made when the first constraint needs it.
    #[cfg(feature = "constraints")]
    vocabulary: OnceLock<Result<Vocabulary, String>>,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`, or the one in a directory.
    ///
    /// The files beside it, listed in [`TokenizerFiles::READ`], are used if they exist.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`] if there is none; [`Error::Io`], [`Error::Json`] and
    /// [`Error::Tokenizer`] for a file that cannot be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (file, files) = files::read(path.as_ref())?;
        Self::from_files(&file, &files)
    }

    /// Loads a tokenizer from memory; errors call it `path`.
    ///
    /// # Errors
    /// [`Error::Json`] and [`Error::Tokenizer`] as for [`Tokenizer::open`].
    pub fn from_files(path: impl AsRef<Path>, files: &TokenizerFiles) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
        let json = files::tokenizer_json(path, files)?;
        let Parsed { mut inner, spelling, largest_id, normalizer, pre_tokenizer } =
            files::parse(json).map_err(bad)?;
        let special = SpecialTokens::find(&mut inner, path, files)?;
        let ends: Vec<u32> = special.eos.iter().copied().chain(special.bos).collect();
        let spelled = Spelled::new(&inner, &ends);
        let pieces = Pieces::of(&inner, &normalizer, &pre_tokenizer);
        let fingerprint = hash::sha256(json);
        let path = path.to_owned();
        Ok(Self(Arc::new(Loaded {
            inner,
            path,
            special,
            spelled,
            pieces,
            spelling,
            largest_id,
            fingerprint,
            #[cfg(feature = "constraints")]
            vocabulary: OnceLock::new(),
        })))
    }

    /// Returns the token ids of `text`. Special tokens that are spelled out in it become their ids.
    ///
    /// With `special`, the tokens that the tokenizer puts around a text are added: for Llama 3 the
    /// beginning-of-text token. `add_bos_token` in `tokenizer_config.json` overrides
    /// `tokenizer.json`, and a text that already begins with that token gets no second one. Without
    /// `special`, the ids are those of the text alone, as for a part of a conversation.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encode = |text: &str, special| {
            files::guarded(|| self.0.inner.encode_fast(text, special))
                .map_err(|reason| self.failed(reason))
        };
        let mut pieces = self.0.pieces.split(text);
        let encoding = encode(pieces.next().unwrap_or_default(), special)?;
        let mut ids = encoding.get_ids().to_vec();
        // Tokens after the whole text follow its last piece.
        let mask = encoding.get_special_tokens_mask();
        let after = mask.iter().rev().take_while(|added| **added == 1).count();
        let after = if ids.len() == after { Vec::new() } else { ids.split_off(ids.len() - after) };
        for piece in pieces {
            ids.extend_from_slice(encode(piece, false)?.get_ids());
        }
        ids.extend(after);
        let Some(bos) = self.0.special.bos.filter(|_| special) else {
            return Ok(ids);
        };
        let first = ids.first() == Some(&bos);
        let added = first && encoding.get_special_tokens_mask().first() == Some(&1);
        let twice = added && ids.get(1) == Some(&bos);
        match self.0.special.add_bos {
            Some(true) if !first => ids.insert(0, bos),
            Some(false) if added => drop(ids.remove(0)),
            _ if twice => drop(ids.remove(0)),
            _ => {}
        }
        Ok(ids)
    }

    /// Returns the memory, in bytes, that encoding `text` may take; `guarded` as in a rendered
    /// conversation whose messages spell out special tokens.
    #[must_use]
    pub fn encoding_memory(&self, text: &str, guarded: bool) -> usize {
        let largest = match guarded {
            true => text.len(),
            false => self.0.pieces.split(text).map(str::len).max().unwrap_or(0),
        };
        PER_BYTE * largest + 2 * size_of::<u32>() * text.len()
    }

    /// Returns a lower bound of the number of tokens of `text`, found without encoding it.
    #[must_use]
    pub fn fewest_tokens(&self, text: &str) -> usize {
        self.0.pieces.fewest_tokens(text)
    }

    /// Returns the token ids of a rendered conversation. Special tokens that the template wrote
    /// become their ids; those that a message or another input of the template spells out are read
    /// as text. Otherwise, the ids are those of [`encode`](Self::encode) without `special`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot encode the text.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let (text, guards) = (rendered.text(), rendered.guards());
        if !guards.is_empty() {
            let encode = || self.0.spelled.encode(&self.0.inner, text, guards);
            if let Some(ids) = files::guarded(encode).map_err(|reason| self.failed(reason))? {
                return Ok(ids);
            }
        }
        self.encode(text, false)
    }

    /// Positions of the characters of a text that must not become part of a special token.
    #[cfg(feature = "chat")]
    pub(crate) fn guards(&self, text: &str) -> Vec<usize> {
        self.0.spelled.guards(&self.0.inner, text)
    }

    /// Returns the text of `ids`. Bytes that are not UTF-8 become U+FFFD; unknown ids are left out,
    /// and so are special tokens with `skip_special`. For a stream of ids see
    /// [`crate::decode::detokenize::Detokenizer`].
    ///
    /// The space that SentencePiece's tokenizers put before a text is removed.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        // The library drops all characters of a run of byte tokens if one byte is invalid, and takes
        // letters with accents in added tokens for bytes.
        let mut bytes = Vec::new();
        for &id in ids {
            self.push_bytes(id, skip_special, &mut bytes);
        }
        let prefix = matches!(self.0.spelling, Spelling::SentencePiece { prefix: true, .. });
        let own = bytes.strip_prefix(b" ").filter(|_| prefix).unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(own).into_owned())
    }

    /// Ids that end a text, ascending: those that `generation_config.json` and the tokenizer's
    /// configuration name, and those of Llama 3's tokens if they exist.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.0.special.eos
    }

    /// Replaces the options of `sampling` that the model's `generation_config.json` names:
    /// temperature, top-k, top-p, min-p and the repetition penalty.
    #[must_use]
    pub fn suggested_sampling(&self, sampling: Sampling) -> Sampling {
        self.0.special.sampling.over(sampling)
    }

    /// The id that begins a text.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.0.special.bos
    }

    /// The id of a token, spelled as in `tokenizer.json`.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.inner.token_to_id(token)
    }

    /// The spelling of a token.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.inner.id_to_token(id)
    }

    /// A hash of `tokenizer.json`, which identifies the tokenizer.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// The chat templates among its files; the error says what is wrong with them.
    #[cfg(feature = "chat")]
    pub(crate) fn templates(&self) -> Result<&ChatTemplates, &str> {
        self.0.special.templates.as_ref().map_err(String::as_str)
    }

    /// The `tokenizer.json` it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Checks that this tokenizer can belong to a model with a vocabulary of `vocab_size` tokens,
    /// padding not included: it has at least half as many ids, and those of its own vocabulary and
    /// of the tokens that begin and end texts are all below `vocab_size`. Other added tokens with
    /// higher ids, such as one for padding, give a warning: the model never writes them, and a
    /// prompt with them is refused.
    ///
    /// # Errors
    /// [`Error::TokenizerMismatch`] if not.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        let added = self.0.inner.get_added_vocabulary().get_added_tokens_decoder();
        let max_id = added.keys().copied().max().unwrap_or(0).max(self.0.largest_id);
        let SpecialTokens { eos, bos, .. } = &self.0.special;
        let mut needed = eos.iter().chain(bos).chain([&self.0.largest_id]);
        let foreign = needed.any(|&id| id as usize >= vocab_size);
        if foreign || (max_id as usize + 1) < vocab_size / 2 {
            return Err(Error::TokenizerMismatch { path: self.0.path.clone(), max_id, vocab_size });
        }
        if max_id as usize >= vocab_size {
            let path = self.0.path.display();
            log::warn!(
                "{path}: added tokens have ids up to {max_id}, the model {vocab_size} tokens"
            );
        }
        Ok(())
    }

    /// The bytes that a token stands for in a text, which may be a part of a character. Special
    /// tokens stand for their spelling, unknown ids for nothing.
    #[must_use]
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.push_bytes(id, false, &mut bytes);
        bytes
    }

    /// Appends the bytes of a token to `bytes`, as [`Tokenizer::decode`] does for each.
    pub(crate) fn push_bytes(&self, id: u32, skip_special: bool, bytes: &mut Vec<u8>) {
        let inner = &self.0.inner;
        let Some(token) = inner.id_to_token(id) else {
            return;
        };
        if skip_special && inner.get_added_vocabulary().is_special_token(&token) {
            return;
        }
        if let Spelling::SentencePiece { bytes: with_bytes, .. } = self.0.spelling {
            match byte_named(&token).filter(|_| with_bytes) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(token.replace('\u{2581}', " ").as_bytes()),
            }
            return;
        }
        // Added tokens are spelled as plain text, others with a character for each byte.
        let added = inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id);
        let spelled: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        match spelled.filter(|_| !added) {
            Some(spelled) => bytes.extend(spelled),
            None => bytes.extend_from_slice(token.as_bytes()),
        }
    }

    fn failed(&self, reason: String) -> Error {
        Error::Tokenizer { path: self.0.path.clone(), reason }
    }
}

/// The byte that a character stands for in byte-level vocabularies: printable Latin-1 characters
/// stand for their own, and the characters from U+0100 on for the other 68 bytes in order.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,        // 0 to 32
        0x121..=0x142 => code - 0x121 + 0x7f, // 127 to 160
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte that `<0xHH>` stands for in SentencePiece's vocabularies.
fn byte_named(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hex)
}
