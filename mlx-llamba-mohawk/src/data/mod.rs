//! From texts to the windows that training reads.

mod cache;
mod companions;
mod encoder;
mod shuffle;
mod source;
mod windows;

pub use cache::{Corpus, Key, Writer};
pub use companions::Companions;
pub use encoder::Encoder;
pub(crate) use shuffle::Stream;
pub use source::{Sources, Text};
pub use windows::{Packing, Position, Windows};

use std::path::Path;

use mlx_llamba::progress::{OnProgress, Progress};

use crate::Result;
use crate::evaluate::Document;

/// Texts that are encoded at a time, on all cores.
const BLOCK: usize = 256;

/// The tokens of all texts of `sources`: those in the directory `cache`, if they are of just these
/// texts and this encoder, else made now and put there. The unit of the progress is a byte.
///
/// # Errors
/// [`crate::Error::NoDocuments`], [`mlx_llamba::Error::Interrupted`], what the sources and the tokenizer report, and
/// [`crate::Error::Io`] if the cache cannot be written.
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
        Ok(_) => log::warn!("{}: of other data; it is made anew", path.display()),
        Err(_) if !path.exists() => {}
        Err(error) => log::warn!("{error}; it is made anew"),
    }
    let mut writer = Writer::create(&path, &key, encoder.vocab())?;
    let total = sources.bytes();
    let mut block = Vec::with_capacity(BLOCK);
    let mut texts = sources.texts();
    loop {
        let next = texts.next().transpose()?;
        let ended = next.is_none();
        block.extend(next);
        if block.len() == BLOCK || ended {
            for (text, ids) in block.iter().zip(encoder.encode_all(&block)?) {
                writer.push(&ids, text.text.len() as u64)?;
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

/// True for a document that is held out: numbers 0, `every`, 2 `every` and so on; none for 0.
#[must_use]
pub fn is_held_out(document: usize, every: usize) -> bool {
    every > 0 && document.is_multiple_of(every)
}

/// The first documents among `numbers` that have at most `tokens` tokens together, at least one;
/// documents longer than `longest` are cut there.
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
            // The number of bytes behind the kept tokens is unknown; their share of all tokens is close to it.
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
