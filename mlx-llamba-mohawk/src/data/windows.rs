//! Windows of equal length over documents one after the other, in an order that looks random.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use super::Corpus;
use super::shuffle::{Stream, permutation};
use crate::{Batch, Error, Result};

/// The position of the next window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The number of times that all windows were read.
    pub epoch: u64,
    /// Windows of this epoch that were read.
    pub index: u64,
}

/// The windows of some documents of a corpus.
///
/// The documents stand one after the other, and window `i` of an epoch is `length` tokens from
/// `shift + i * length` on; each epoch has a shift of its own, so that a text is not always cut at
/// the same places. Shift and order follow from the names and the epoch.
#[derive(Debug)]
pub struct Windows {
    corpus: Rc<Corpus>,
    /// Runs of documents: place among the windows' tokens, place in the corpus, tokens.
    runs: Vec<(u64, u64, u64)>,
    /// Places among the windows' tokens where documents begin.
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
    order: Vec<u32>,
}

impl Windows {
    /// Windows of `length` tokens over the documents with these numbers, in their order. With
    /// `resets`, batches tell where documents begin. Windows with the same `names` (the seed, the
    /// stage) come in the same order.
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
        let (mut runs, mut starts, mut tokens) = (Vec::<(u64, u64, u64)>::new(), Vec::new(), 0);
        for document in documents {
            let (start, end) = (corpus.start(document), corpus.start(document + 1));
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
        let needed = length as u64 + 1;
        if tokens < needed {
            return Err(Error::TooLittleData { tokens, needed });
        }
        if tokens / length as u64 > u64::from(u32::MAX) {
            return Err(Error::TooMuchData { tokens, length });
        }
        let (corpus, names, epoch) = (Rc::clone(corpus), names.to_vec(), RefCell::new(None));
        Ok(Self { corpus, runs, starts, tokens, length, resets, names, epoch })
    }

    /// Tokens of all documents.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The next `rows` windows from `position` on, and the position behind them.
    ///
    /// # Errors
    /// None at present.
    pub fn batch(&self, position: Position, rows: usize) -> Result<(Batch, Position)> {
        let l = self.length;
        let (mut tokens, mut next) = (Vec::with_capacity(rows * l), Vec::with_capacity(rows * l));
        let mut starts = Vec::new();
        let mut at = position;
        let mut window = Vec::with_capacity(l + 1);
        for _ in 0..rows {
            let start = self.take(&mut at);
            window.clear();
            self.read(start, l + 1, &mut window);
            tokens.extend_from_slice(&window[..l]);
            next.extend_from_slice(&window[1..]);
            if self.resets {
                let row = starts.len();
                starts.resize(row + l, false);
                let first = self.starts.partition_point(|&place| place < start);
                let places = self.starts[first..].iter().take_while(|&&p| p < start + l as u64);
                places.for_each(|place| starts[row + (place - start) as usize] = true);
            }
        }
        let shape = [rows as i32, l as i32];
        let batch = Batch {
            tokens: Array::from_slice(&tokens, &shape), // (b, l)
            next: Array::from_slice(&next, &shape),     // (b, l)
            starts: self.resets.then(|| Array::from_slice(&starts, &shape)), // (b, l)
        };
        Ok((batch, at))
    }

    /// Returns the start of the next window and moves on.
    fn take(&self, at: &mut Position) -> u64 {
        let mut epoch = self.epoch.borrow_mut();
        loop {
            let epoch = match &mut *epoch {
                Some(epoch) if epoch.number == at.epoch => epoch,
                other => other.insert(self.epoch(at.epoch)),
            };
            if let Some(&i) = epoch.order.get(at.index as usize) {
                at.index += 1;
                return epoch.shift + u64::from(i) * self.length as u64;
            }
            *at = Position { epoch: at.epoch + 1, index: 0 };
        }
    }

    fn epoch(&self, number: u64) -> Epoch {
        let names: Vec<u64> = self.names.iter().copied().chain([number]).collect();
        let mut stream = Stream::new(&names);
        let length = self.length as u64;
        // At least one window is left, and each has a token behind it.
        let shift = stream.below(length.min(self.tokens - length));
        let windows = (self.tokens - 1 - shift) / length;
        Epoch { number, shift, order: permutation(windows as u32, &mut stream) }
    }

    /// Adds `count` tokens from `start` on.
    fn read(&self, mut start: u64, mut count: usize, ids: &mut Vec<u32>) {
        let run = self.runs.partition_point(|&(place, ..)| place <= start) - 1;
        for &(place, at, tokens) in &self.runs[run..] {
            let here = count.min((place + tokens - start) as usize);
            self.corpus.read(at + start - place, here, ids);
            count -= here;
            start += here as u64;
            if count == 0 {
                return;
            }
        }
    }
}
