//! Windows of equal length over concatenated documents, in random order.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use super::Corpus;
use super::cache::UNLEARNED;
use super::mix::Mix;
use super::shuffle::{Stream, permutation};
use crate::{Batch, Error, Result};

/// The position of the next window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The number of complete passes over all windows.
    pub epoch: u64,
    /// The number of windows read in this epoch.
    pub index: u64,
}

/// The positions at which windows begin.
///
/// A trained Transformer attends strongly to the first token that it sees. A window that begins
/// within a document has a first token that no text of the training had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Anywhere: the documents are concatenated and cut every `length` tokens, with an offset that
    /// differs between epochs.
    Cut,
    /// As `Cut`, but a window that begins within a document is preceded by the document's first
    /// token.
    Sink,
    /// At a document: in each epoch the documents are shuffled and concatenated until the window is
    /// full; the rest of the last one is not read. A document longer than a window is cut into
    /// several, all preceded by its first token.
    #[default]
    Documents,
}

/// Documents of a corpus, by their numbers.
#[derive(Debug, Clone)]
pub struct Part {
    /// The corpus.
    pub corpus: Rc<Corpus>,
    /// The documents.
    pub documents: Vec<usize>,
}

/// The bits of a position that count tokens within a corpus; those above are the number of the corpus.
const WITHIN: u32 = 48;

/// The windows of some documents of one corpus or several. Their order depends on the names and the epoch.
#[derive(Debug)]
pub struct Windows {
    corpora: Vec<Rc<Corpus>>,
    packing: Packing,
    /// The ratio of the corpora, if it is not that of their tokens.
    mix: Option<Mix>,
    /// Parts of documents that fit into a window, for [`Packing::Documents`].
    pieces: Vec<Piece>,
    /// Runs of documents: position among the windows' tokens, position in the corpora, tokens.
    runs: Vec<(u64, u64, u64)>,
    /// Positions among the windows' tokens at which documents begin.
    starts: Vec<u64>,
    tokens: u64,
    length: usize,
    resets: bool,
    names: Vec<u64>,
    epoch: RefCell<Option<Epoch>>,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    shift: u64,
    /// The order of windows, or of pieces.
    order: Vec<u32>,
    /// Positions in the order at which windows begin, for [`Packing::Documents`].
    begins: Vec<u32>,
}

/// A part of a document.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The position in the corpora.
    start: u64,
    tokens: u32,
    /// The position of the document's first token, if it precedes the part.
    sink: Option<u64>,
}

impl Piece {
    /// The number of tokens in a window.
    fn length(&self) -> usize {
        self.tokens as usize + usize::from(self.sink.is_some())
    }
}

impl Windows {
    /// Returns windows of `length` tokens over the documents with these numbers, cut anywhere. With
    /// `resets`, batches mark the starts of documents. Windows with the same `names` (the seed, the
    /// stage) have the same order.
    ///
    /// # Errors
    /// [`Error::TooLittleData`] if not even one window can be filled.
    pub fn new(
        corpus: &Rc<Corpus>,
        documents: impl Iterator<Item = usize>,
        length: usize,
        resets: bool,
        names: &[u64],
    ) -> Result<Self> {
        let part = Part { corpus: Rc::clone(corpus), documents: documents.collect() };
        Self::of_parts(&[part], length, resets, names)
    }

    /// Returns [windows](Self::new) over the documents of several corpora.
    ///
    /// # Errors
    /// [`Error::TooLittleData`] if not even one window can be filled.
    pub fn of_parts(parts: &[Part], length: usize, resets: bool, names: &[u64]) -> Result<Self> {
        let (mut runs, mut starts, mut tokens) = (Vec::<(u64, u64, u64)>::new(), Vec::new(), 0);
        for (number, Part { corpus, documents }) in (0u64..).zip(parts) {
            for &document in documents {
                let [start, end] =
                    [document, document + 1].map(|i| number << WITHIN | corpus.start(i));
                if start == end {
                    continue;
                }
                match runs.last_mut() {
                    Some((_, at, count)) if *at + *count == start => *count += end - start,
                    _ => runs.push((tokens, start, end - start)),
                }
                starts.push(tokens);
                tokens += end - start;
            }
        }
        let needed = length as u64 + 1;
        if tokens < needed {
            return Err(Error::TooLittleData { tokens, needed });
        }
        if tokens / length as u64 > u64::from(u32::MAX) {
            return Err(Error::TooMuchData { tokens, length });
        }
        let corpora = parts.iter().map(|part| Rc::clone(&part.corpus)).collect();
        let (names, epoch, mix) = (names.to_vec(), RefCell::new(None), None);
        let (packing, pieces) = (Packing::Cut, Vec::new());
        Ok(Self {
            corpora,
            packing,
            mix,
            pieces,
            runs,
            starts,
            tokens,
            length,
            resets,
            names,
            epoch,
        })
    }

    /// Sets another packing.
    #[must_use]
    pub fn packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self.mix = None;
        self.pieces.clear();
        *self.epoch.borrow_mut() = None;
        if packing == Packing::Documents {
            let ends = self.starts.iter().skip(1).copied().chain([self.tokens]);
            for (&start, end) in self.starts.iter().zip(ends) {
                let first = self.in_corpus(start);
                let (mut done, tokens) = (0, end - start);
                while done < tokens {
                    let sink = Some(first).filter(|_| done > 0);
                    let most = self.length as u64 - u64::from(sink.is_some());
                    let count = most.max(1).min(tokens - done);
                    self.pieces.push(Piece { start: first + done, tokens: count as u32, sink });
                    done += count;
                }
            }
        }
        self
    }

    /// Mixes the corpora so that tokens of each are as frequent as these weights say. The packing is
    /// [`Packing::Documents`].
    ///
    /// # Errors
    /// [`Error::TooLittleData`] if a corpus has no documents, or the tokens of an epoch do not fill a window.
    pub fn weights(mut self, weights: &[f64]) -> Result<Self> {
        let mut sources = Vec::new();
        for (number, &weight) in (0u64..).zip(weights) {
            let first = self.pieces.partition_point(|piece| piece.start >> WITHIN < number);
            let last = self.pieces.partition_point(|piece| piece.start >> WITHIN <= number);
            let pieces = &self.pieces[first..last];
            let tokens = pieces.iter().map(|piece| piece.length() as u64).sum();
            sources.push((first as u32..last as u32, tokens, weight));
        }
        let needed = self.length as u64 + 1;
        // Of one source an epoch has all tokens.
        let rarest =
            sources.iter().max_by(|a, b| (a.2 * b.1 as f64).total_cmp(&(b.2 * a.1 as f64)));
        let least = sources.iter().map(|source| source.1).min().filter(|&tokens| tokens == 0);
        let tokens = least.or(rarest.map(|source| source.1)).unwrap_or(0);
        if tokens < needed {
            return Err(Error::TooLittleData { tokens, needed });
        }
        self.mix = Some(Mix::new(&sources));
        *self.epoch.borrow_mut() = None;
        Ok(self)
    }

    /// Returns the position in the corpora of the token at this position among the windows' tokens.
    fn in_corpus(&self, place: u64) -> u64 {
        let run = self.runs.partition_point(|&(from, ..)| from <= place) - 1;
        let (from, at, _) = self.runs[run];
        at + place - from
    }

    /// The number of tokens of all documents.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The number of tokens of a window.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Reads the next `rows` windows from `position` on. Returns them and the position after them.
    ///
    /// # Errors
    /// None at present.
    pub fn batch(&self, position: Position, rows: usize) -> Result<(Batch, Position)> {
        let l = self.length;
        let (mut tokens, mut next) = (Vec::with_capacity(rows * l), Vec::with_capacity(rows * l));
        let (mut starts, mut learned) = (Vec::new(), Vec::new());
        let mut at = position;
        let mut window = Window::default();
        for _ in 0..rows {
            self.take(&mut at, &mut window);
            let row = next.len();
            tokens.extend(window.ids[..l].iter().map(|id| id & !UNLEARNED));
            next.extend(window.ids[1..].iter().map(|id| id & !UNLEARNED));
            let marked = (0u32..).zip(&window.ids[1..]);
            learned
                .extend(marked.filter(|(_, id)| *id & UNLEARNED == 0).map(|(i, _)| row as u32 + i));
            if self.resets {
                let row = starts.len();
                starts.resize(row + l, false);
                window.starts.iter().filter(|&&i| i < l).for_each(|i| starts[row + i] = true);
            }
        }
        let shape = [rows as i32, l as i32];
        let batch = Batch {
            tokens: Array::from_slice(&tokens, &shape), // (b, l)
            next: Array::from_slice(&next, &shape),     // (b, l)
            starts: self.resets.then(|| Array::from_slice(&starts, &shape)), // (b, l)
            learned: Some(learned).filter(|learned| learned.len() < tokens.len()),
        };
        Ok((batch, at))
    }

    /// Reads the next window, and moves on.
    fn take(&self, at: &mut Position, window: &mut Window) {
        let mut epoch = self.epoch.borrow_mut();
        window.ids.clear();
        window.starts.clear();
        loop {
            let epoch = match &mut *epoch {
                Some(epoch) if epoch.number == at.epoch => epoch,
                other => other.insert(self.epoch(at.epoch)),
            };
            let index = at.index as usize;
            at.index += 1;
            if self.packing == Packing::Documents {
                if let Some(&begin) = epoch.begins.get(index) {
                    return self.pack(&epoch.order[begin as usize..], window);
                }
            } else if let Some(&i) = epoch.order.get(index) {
                return self.cut(epoch.shift + u64::from(i) * self.length as u64, window);
            }
            *at = Position { epoch: at.epoch + 1, index: 0 };
        }
    }

    /// Reads `length + 1` tokens from a position among the windows' tokens on.
    fn cut(&self, start: u64, window: &mut Window) {
        let first = self.starts.partition_point(|&place| place < start);
        let mut before = 0;
        if self.packing == Packing::Sink && self.starts.get(first) != Some(&start) {
            let document = self.starts[first.saturating_sub(1)];
            self.read(document, 1, &mut window.ids);
            window.starts.push(0);
            before = 1;
        }
        self.read(start, self.length + 1 - before, &mut window.ids);
        let end = start + self.length as u64;
        let places = self.starts[first..].iter().take_while(|&&place| place < end);
        window.starts.extend(places.map(|place| (place - start) as usize + before));
    }

    /// Reads `length + 1` tokens of pieces in their order.
    fn pack(&self, order: &[u32], window: &mut Window) {
        for &i in order {
            let Piece { start, tokens, sink } = self.pieces[i as usize];
            window.starts.push(window.ids.len());
            if let Some(sink) = sink {
                self.read_corpus(sink, 1, &mut window.ids);
            }
            let left = (self.length + 1).saturating_sub(window.ids.len());
            self.read_corpus(start, left.min(tokens as usize), &mut window.ids);
            if window.ids.len() > self.length {
                return;
            }
        }
    }

    fn epoch(&self, number: u64) -> Epoch {
        let names: Vec<u64> = self.names.iter().copied().chain([number]).collect();
        let mut stream = Stream::new(&names);
        let length = self.length as u64;
        if self.packing == Packing::Documents {
            let order = match &self.mix {
                None => permutation(self.pieces.len() as u32, &mut stream),
                Some(mix) => {
                    let chosen = mix.epoch(&self.names, number);
                    let order = permutation(chosen.len() as u32, &mut stream);
                    order.iter().map(|&i| chosen[i as usize]).collect()
                }
            };
            let (mut begins, mut begin, mut filled) = (Vec::new(), None, 0);
            for (place, &i) in order.iter().enumerate() {
                let tokens = self.pieces[i as usize].length();
                if filled == self.length {
                    // Full; this piece gives the token after it, and begins the next window.
                    begins.extend(begin.take());
                    filled = 0;
                }
                begin.get_or_insert(place as u32);
                filled += tokens;
                if filled > self.length {
                    begins.extend(begin.take());
                    filled = 0;
                }
            }
            return Epoch { number, shift: 0, order, begins };
        }
        // At least one window is left, and each is followed by a token.
        let shift = stream.below(length.min(self.tokens - length));
        let windows = (self.tokens - 1 - shift) / length;
        let order = permutation(windows as u32, &mut stream);
        Epoch { number, shift, order, begins: Vec::new() }
    }

    /// Adds `count` tokens of one document from a position in the corpora on.
    fn read_corpus(&self, at: u64, count: usize, ids: &mut Vec<u32>) {
        let corpus = &self.corpora[(at >> WITHIN) as usize];
        corpus.read(at & ((1 << WITHIN) - 1), count, ids);
    }

    /// Adds `count` tokens from `start` on.
    fn read(&self, mut start: u64, mut count: usize, ids: &mut Vec<u32>) {
        let run = self.runs.partition_point(|&(place, ..)| place <= start) - 1;
        for &(place, at, tokens) in &self.runs[run..] {
            let here = count.min((place + tokens - start) as usize);
            self.read_corpus(at + start - place, here, ids);
            count -= here;
            start += here as u64;
            if count == 0 {
                return;
            }
        }
    }
}

/// The tokens of a window with the one after it, and the positions at which documents begin.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    starts: Vec<usize>,
}
