//! A cache of states after prefixes that recur: system prompts, conversations so far.

mod disk;

use std::collections::BTreeMap;
use std::path::PathBuf;

use lru::LruCache;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::model::Model;
use crate::state::State;
use disk::Disk;

/// Stores states by the tokens before them and finds the longest known prefix of a text. The state
/// of a recurrent model stands for exactly one sequence of tokens, so a partial match is none: it
/// matters which prefixes are stored. Ends of messages are good ones.
///
/// When a memory budget is exceeded, the least recently used states are evicted. With a directory
/// they are moved there, within a budget of its own; [`flush`](Self::flush) writes those in memory.
/// Files are written atomically and have a checksum: a damaged file is ignored and removed.
#[derive(Debug)]
pub struct PrefixCache {
    model: String,
    budget: usize,
    bytes: usize,
    /// By hash of the tokens, in the order of use.
    entries: LruCache<Key, Entry>,
    /// The number of entries of each length.
    lengths: BTreeMap<usize, usize>,
    disk: Option<Disk>,
    stats: PrefixCacheStats,
}

/// SHA-256 of token ids.
type Key = [u8; 32];

#[derive(Debug)]
struct Entry {
    length: usize,
    state: State,
    /// On the disk too.
    stored: bool,
}

/// A known prefix.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct PrefixHit {
    /// The number of tokens in the prefix.
    pub length: usize,
    /// The state after the prefix, batch size 1.
    pub state: State,
}

/// Statistics of a cache.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCacheStats {
    /// The number of states in memory.
    pub entries: usize,
    /// The size of the states in memory in bytes.
    pub bytes: usize,
    /// The number of states on disk.
    pub disk_entries: usize,
    /// The size of the states on disk in bytes.
    pub disk_bytes: u64,
    /// The number of cache hits.
    pub hits: u64,
    /// The number of cache misses.
    pub misses: u64,
    /// The total number of tokens in the prefixes found.
    pub tokens: u64,
    /// The number of states evicted from memory.
    pub evictions: u64,
}

impl PrefixCache {
    /// Creates a cache for states of `model` with a memory budget in bytes.
    #[must_use]
    pub fn new(model: &Model, budget: usize) -> Self {
        Self {
            model: model.fingerprint().to_owned(),
            budget,
            bytes: 0,
            entries: LruCache::unbounded(),
            lengths: BTreeMap::new(),
            disk: None,
            stats: PrefixCacheStats::default(),
        }
    }

    /// Adds a directory with a budget in bytes for this model's states. States that are there already
    /// are used. The directory is created if necessary.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be created or listed.
    pub fn with_directory(mut self, path: impl Into<PathBuf>, budget: u64) -> Result<Self> {
        self.disk = Some(Disk::open(path.into(), &self.model, budget)?);
        Ok(self)
    }

    /// Stores the state (batch size 1) after exactly these tokens. Without tokens, or if the state is
    /// larger than the budget, nothing is stored.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the state cannot be computed.
    pub fn insert(&mut self, tokens: &[u32], state: &State) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        let key = hash(&Sha256::new(), tokens).finalize().into();
        if self.entries.get(&key).is_some() {
            return Ok(());
        }
        // A state can be a view of larger arrays, which a copy of it alone does not keep alive.
        let state = state.row(0)?;
        state.eval()?;
        self.keep(key, tokens.len(), state, false);
        Ok(())
    }

    /// Finds the longest known prefix of `tokens` that leaves at least one of them to read: its logits
    /// are needed to continue the text.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if a state from the disk cannot be made an array.
    pub fn find(&mut self, model: &Model, tokens: &[u32]) -> Result<Option<PrefixHit>> {
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

    /// Returns the statistics so far.
    #[must_use]
    pub fn stats(&self) -> PrefixCacheStats {
        let (disk_entries, disk_bytes) = self.disk.as_ref().map_or((0, 0), Disk::size);
        let (entries, bytes) = (self.entries.len(), self.bytes);
        PrefixCacheStats { entries, bytes, disk_entries, disk_bytes, ..self.stats }
    }

    /// Writes the states in memory to the directory, the most recently used last. Does nothing without
    /// a directory.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if a file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        for (key, entry) in self.entries.iter_mut().rev().filter(|(_, entry)| !entry.stored) {
            disk.store(key, entry.length, &entry.state)?;
            entry.stored = true;
        }
        Ok(())
    }

    /// Removes all states, on disk too.
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
            if let Some(entry) = self.entries.get(&key) {
                return Ok(Some(PrefixHit { length, state: entry.state.clone() }));
            }
            let loaded = match &mut self.disk {
                Some(disk) => disk.load(&key, length, model)?,
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
        self.entries.put(key, Entry { length, state, stored });
    }

    /// Evicts the least recently used state. If it cannot be written to the directory (a full disk),
    /// it is dropped: that must not fail the caller, who wants another one.
    fn evict(&mut self) {
        let Some((key, entry)) = self.entries.pop_lru() else { return };
        self.bytes -= entry.state.nbytes();
        self.stats.evictions += 1;
        if let Some(count) = self.lengths.get_mut(&entry.length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&entry.length);
            }
        }
        if let Some(disk) = self.disk.as_mut().filter(|_| !entry.stored)
            && let Err(error) = disk.store(&key, entry.length, &entry.state)
        {
            log::warn!("a state is dropped: {error}");
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
