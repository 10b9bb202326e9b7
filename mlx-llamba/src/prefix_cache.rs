//! States after beginnings of texts that come up again: system prompts, conversations so far.

mod disk;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::model::Model;
use crate::state::State;
use disk::Disk;

/// Remembers states by the tokens before them, and finds the longest beginning of a text that it
/// knows. A state of a recurrent model stands for one exact sequence of tokens: half a match is
/// none, so it matters which places are remembered. Ends of messages are good ones.
///
/// The states least recently used are forgotten when a budget of bytes is exceeded. With a
/// directory, they are moved there instead, within a budget of its own; what is in memory goes
/// there with [`flush`](Self::flush). Files appear whole or not at all and carry a checksum: one
/// that is damaged counts as absent and is removed.
#[derive(Debug)]
pub struct PrefixCache {
    model: String,
    budget: usize,
    bytes: usize,
    /// By hash of the tokens.
    entries: HashMap<Key, Entry>,
    /// How many entries there are of each length.
    lengths: BTreeMap<usize, usize>,
    clock: u64,
    disk: Option<Disk>,
    stats: PrefixCacheStats,
}

/// SHA-256 of token ids.
type Key = [u8; 32];

#[derive(Debug)]
struct Entry {
    length: usize,
    state: State,
    used: u64,
    /// On the disk too.
    stored: bool,
}

/// A beginning that was found.
#[derive(Debug, Clone)]
pub struct PrefixHit {
    /// Tokens that need not be read.
    pub length: usize,
    /// The state after them, batch size 1.
    pub state: State,
}

/// Counts of a cache.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCacheStats {
    /// States in memory.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// States on the disk.
    pub disk_entries: usize,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Texts of which a beginning was known.
    pub hits: u64,
    /// Texts of which none was.
    pub misses: u64,
    /// Tokens of the beginnings found.
    pub tokens: u64,
    /// States that had to leave the memory.
    pub evictions: u64,
}

impl PrefixCache {
    /// A cache for states of `model` that takes up to `budget` bytes of memory.
    #[must_use]
    pub fn new(model: &Model, budget: usize) -> Self {
        Self {
            model: model.fingerprint().to_owned(),
            budget,
            bytes: 0,
            entries: HashMap::new(),
            lengths: BTreeMap::new(),
            clock: 0,
            disk: None,
            stats: PrefixCacheStats::default(),
        }
    }

    /// Uses a directory too, with up to `budget` bytes for this model's states; what is there
    /// already is found again. It is created if need be.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be created or listed.
    pub fn with_directory(mut self, path: impl Into<PathBuf>, budget: u64) -> Result<Self> {
        self.disk = Some(Disk::open(path.into(), &self.model, budget)?);
        Ok(self)
    }

    /// Remembers the state (batch size 1) after exactly these tokens. Nothing is remembered of no
    /// tokens, or of a state larger than the budget.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the state cannot be computed.
    pub fn insert(&mut self, tokens: &[u32], state: &State) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        let key = hash(&Sha256::new(), tokens).finalize().into();
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = self.clock;
            return Ok(());
        }
        // A state can be a view of larger arrays, which a copy of it alone does not keep alive.
        let state = state.row(0)?;
        state.eval()?;
        self.keep(key, tokens.len(), state, false);
        Ok(())
    }

    /// The longest known beginning of `tokens` that leaves at least one of them to be read: that
    /// one's logits are what a text goes on with.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if a state from the disk cannot be made an array.
    pub fn find(&mut self, model: &Model, tokens: &[u32]) -> Result<Option<PrefixHit>> {
        self.clock += 1;
        let found =
            if model.fingerprint() == self.model { self.look(model, tokens)? } else { None };
        match &found {
            Some(hit) => {
                self.stats.hits += 1;
                self.stats.tokens += hit.length as u64;
            }
            None => self.stats.misses += 1,
        }
        Ok(found)
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> PrefixCacheStats {
        let (disk_entries, disk_bytes) = self.disk.as_ref().map_or((0, 0), Disk::size);
        let (entries, bytes) = (self.entries.len(), self.bytes);
        PrefixCacheStats { entries, bytes, disk_entries, disk_bytes, ..self.stats }
    }

    /// Writes what is in memory to the directory, the most recently used last; without one, does
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if a file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut entries: Vec<_> = self.entries.iter_mut().filter(|(_, e)| !e.stored).collect();
        entries.sort_by_key(|(_, entry)| entry.used);
        for (key, entry) in entries {
            disk.store(key, entry.length, &entry.state, entry.used)?;
            entry.stored = true;
        }
        Ok(())
    }

    /// Forgets everything, on the disk too.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.lengths.clear();
        self.bytes = 0;
        if let Some(disk) = &mut self.disk {
            disk.clear();
        }
    }

    fn look(&mut self, model: &Model, tokens: &[u32]) -> Result<Option<PrefixHit>> {
        let most = tokens.len().saturating_sub(1);
        let mut lengths: Vec<usize> = self.lengths.range(..=most).map(|(l, _)| *l).collect();
        if let Some(disk) = &self.disk {
            lengths.extend(disk.lengths(most));
        }
        lengths.sort_unstable();
        lengths.dedup();
        // One pass over the tokens gives the hashes of all these beginnings.
        let (mut sum, mut at) = (Sha256::new(), 0);
        let mut keys: Vec<(usize, Key)> = Vec::with_capacity(lengths.len());
        for length in lengths {
            sum = hash(&sum, &tokens[at..length]);
            at = length;
            keys.push((length, sum.clone().finalize().into()));
        }
        for (length, key) in keys.into_iter().rev() {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.used = self.clock;
                return Ok(Some(PrefixHit { length, state: entry.state.clone() }));
            }
            let loaded = match &mut self.disk {
                Some(disk) => disk.load(&key, length, model, self.clock)?,
                None => None,
            };
            if let Some(state) = loaded {
                self.keep(key, length, state.clone(), true);
                return Ok(Some(PrefixHit { length, state }));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, key: Key, length: usize, state: State, stored: bool) {
        let bytes = state.nbytes();
        if bytes > self.budget {
            return;
        }
        while self.bytes + bytes > self.budget {
            self.evict();
        }
        self.bytes += bytes;
        *self.lengths.entry(length).or_default() += 1;
        let entry = Entry { length, state, used: self.clock, stored };
        self.entries.insert(key, entry);
    }

    /// Lets the least recently used state go. That a disk is full is no reason to fail whoever asks
    /// for another one: then it is forgotten.
    fn evict(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
        let Some(entry) =
            oldest.map(|(key, _)| *key).and_then(|key| self.entries.remove_entry(&key))
        else {
            return;
        };
        let (key, entry) = entry;
        self.bytes -= entry.state.nbytes();
        self.stats.evictions += 1;
        if let Some(count) = self.lengths.get_mut(&entry.length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&entry.length);
            }
        }
        if let Some(disk) = self.disk.as_mut().filter(|_| !entry.stored)
            && let Err(error) = disk.store(&key, entry.length, &entry.state, entry.used)
        {
            log::warn!("a state is forgotten: {error}");
        }
    }
}

fn hash(start: &Sha256, tokens: &[u32]) -> Sha256 {
    let mut sum = start.clone();
    for id in tokens {
        sum.update(id.to_le_bytes());
    }
    sum
}
