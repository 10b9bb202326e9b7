//! Text for training: sources, token ids, windows.

mod cache;
mod companions;
mod encoder;
mod mix;
mod shuffle;
mod source;
mod windows;

pub use cache::{Corpus, Key, Writer};
pub use companions::Companions;
pub use encoder::{Encoded, Encoder};
pub(crate) use shuffle::Stream;
pub(crate) use source::{BOM, is_no_text, warn_of};
pub use source::{Sources, Text, is_json};
pub use windows::{Packing, Part, Position, Windows};

use std::path::Path;

use mlx_llamba::progress::{OnProgress, Progress};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::evaluate::Document;

/// The tokens whose prediction is learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learned {
    /// All of them.
    #[default]
    All,
    /// Of a conversation, the assistant's messages and what ends them; all of other documents.
    Responses,
}

/// The number of texts that are encoded at once, on all cores.
const BLOCK: usize = 256;

/// Returns the tokens of all texts of `sources`. They are read from the directory `cache` if it has
/// those of exactly these texts and this encoder, and otherwise computed and written there. The unit
/// of the progress is a byte.
///
/// # Errors
/// [`crate::Error::NoDocuments`], [`mlx_llamba::Error::Interrupted`], errors of the sources and of
/// the tokenizer, and [`mlx_llamba::Error::Io`] if the cache cannot be written.
pub fn tokenize(
    sources: &Sources,
    encoder: &Encoder,
    cache: &Path,
    on_progress: OnProgress<'_>,
) -> Result<Corpus> {
    let key = cache::Key::new(sources, encoder)?;
    let path = key.path(cache);
    match Corpus::open(&path) {
        Ok(corpus) if corpus.is_of(&key) => return Ok(corpus),
        Ok(_) => log::warn!("{}: it belongs to other data and is replaced", path.display()),
        Err(_) if !path.exists() => {}
        Err(error) => log::warn!("{error}; it is replaced"),
    }
    let mut writer = Writer::create(&path, &key, encoder.vocab(), encoder.is_partial())?;
    let total = sources.bytes();
    let mut block = Vec::with_capacity(BLOCK);
    let mut texts = sources.texts();
    loop {
        let next = texts.next().transpose()?;
        let ended = next.is_none();
        block.extend(next);
        if block.len() == BLOCK || ended {
            for (text, encoded) in block.iter().zip(encoder.encode_all(&block)?) {
                writer.push(&encoded, text.text.len() as u64)?;
            }
            let done = block.last().map_or(total, |text: &Text| text.end);
            Progress::new("", done, total).tell(on_progress)?;
            block.clear();
        }
        if ended {
            break;
        }
    }
    writer.finish(sources.path())
}

/// True for a held-out document: number 0, `every`, 2 `every` and so on; with 0, none.
#[must_use]
pub fn is_held_out(document: usize, every: usize) -> bool {
    every > 0 && document.is_multiple_of(every)
}

/// Returns the first documents of `numbers` that together have at most `tokens` tokens, but at least
/// one document. Documents are truncated to `longest` tokens.
#[must_use]
pub fn held_out(
    corpus: &Corpus,
    numbers: impl Iterator<Item = usize>,
    tokens: usize,
    longest: usize,
) -> Vec<Document> {
    let (mut documents, mut total) = (Vec::new(), 0);
    for number in numbers {
        let mut ids = corpus.document(number);
        let mut bytes = corpus.text_bytes(number);
        if ids.len() < 2 {
            continue;
        }
        if ids.len() > longest {
            // The number of bytes behind the kept tokens is unknown; their share of all tokens is
            // close to it.
            bytes = (bytes as u128 * longest as u128 / ids.len() as u128) as u64;
            ids.truncate(longest.max(2));
        }
        total += ids.len();
        if total > tokens && !documents.is_empty() {
            break;
        }
        documents.push(Document { tokens: ids, bytes });
    }
    documents
}
