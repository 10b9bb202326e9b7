//! Cached states of earlier prompts and replies, for requests that begin with them.
//!
//! Cached are the states where a later prompt is likely to begin in the same way:
//!
//! - at the end of a reply in a conversation, with which its next request begins;
//! - at the end of a prompt, for an equal one;
//! - at the end of the system message and the tools of a conversation, for others that share them;
//! - at the end of the longest prefix that a prompt shares with a recent one: other prefixes are not
//!   read again from the third prompt on.
//!
//! A first request pays for that with a copy of the state at each of these places, and with one more
//! forward pass, since its last token is read after the others.
//!
//! Tenants, and requests with different salts, share no states: the number of cached tokens would
//! tell one of them the prompts of another.

use std::collections::VecDeque;

use mlx_llamba::decode::batch::{BatchRequest, Step};
use mlx_llamba::{Context, Error, Llamba, PrefixCache, Reason};
use sha2::{Digest, Sha256};

use crate::options::Options;
use crate::prepared::Chat;
use crate::request::Settings;

/// Recent prompts that a new one is compared with.
const RECENT: usize = 32;
/// Tokens below which reading a prefix is as fast as finding it.
const WORTH: usize = 16;

/// A cache, and the recent prompts that tell which states are worth caching.
pub(crate) struct Prefixes {
    cache: Option<PrefixCache>,
    /// Keys of recent prompts.
    recent: VecDeque<Vec<u32>>,
}

/// A running request whose states may be cached.
pub(crate) struct Keep {
    /// The scope, the prompt and, if `reply` is set, the generated tokens.
    key: Vec<u32>,
    /// Length of the part of the key that was found in the cache, or of the scope.
    known: usize,
    /// The state at the end of the reply is cached too.
    reply: bool,
}

impl Prefixes {
    /// Creates a cache within the options' bounds; without memory, a disabled one.
    pub(crate) fn new(llamba: &Llamba, options: &Options) -> Result<Self, Error> {
        let (recent, memory) = (VecDeque::new(), options.cache_memory);
        if memory == 0 {
            return Ok(Self { cache: None, recent });
        }
        let mut cache = PrefixCache::new(llamba.model(), memory);
        if let Some(directory) = &options.cache_directory {
            cache = cache.with_directory(directory, options.cache_disk)?;
        }
        Ok(Self { cache: Some(cache), recent })
    }

    /// Bytes of the cached states in memory and on disk.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let stats = self.cache.as_ref().map(PrefixCache::stats);
        stats.map_or((0, 0), |stats| (stats.bytes, stats.disk_bytes as usize))
    }

    /// Writes the states in memory to the cache directory, if there is one.
    pub(crate) fn flush(&mut self) {
        if let Some(Err(error)) = self.cache.as_mut().map(PrefixCache::flush) {
            log::warn!("cached states are lost: {error}");
        }
    }

    /// Makes a row that resumes from the longest cached prefix of a prompt. Returns the number of
    /// tokens in that prefix too.
    pub(crate) fn request(
        &mut self,
        llamba: &Llamba,
        (prompt, chat): (&[u32], Option<Chat>),
        tenant: &str,
        settings: &Settings,
    ) -> Result<(BatchRequest, Option<Keep>, usize), Error> {
        let Settings { generation, choices, prompt_logprobs, cache_salt, .. } = settings;
        let request = |context, prompt: &[u32]| {
            BatchRequest::new(context, prompt.to_vec(), generation.clone())
                .choices(*choices)
                .prompt_logprobs(*prompt_logprobs)
        };
        // Log-probabilities need every token of the prompt.
        let cache = self.cache.as_mut().filter(|_| !prompt_logprobs && generation.max_tokens > 0);
        let Some(cache) = cache else {
            return Ok((request(llamba.context()?, prompt), None, 0));
        };
        let scope = scope(if settings.shared_cache { "" } else { tenant }, cache_salt);
        let key = [&scope, prompt].concat();
        let (context, known) = match cache.find(llamba.model(), &key)? {
            Some(hit) => (Context::after(hit.state, &key[scope.len()..hit.length]), hit.length),
            None => (llamba.context()?, scope.len()),
        };
        let mut request = request(context, &key[known..]);
        let alike = |other: &Vec<u32>| other.iter().zip(&key).take_while(|(a, b)| a == b).count();
        let shared = self.recent.iter().map(alike).max().unwrap_or(0);
        // A row needs at least one token to read.
        let last = key.len() - 1;
        let beginning = chat.map_or(0, |chat| scope.len() + chat.beginning);
        let mut places = vec![beginning, shared, last].into_iter().map(|place| place.min(last));
        let worth = |place: &usize| *place >= known + WORTH;
        request.snapshots = places.by_ref().filter(worth).map(|place| place + 1 - known).collect();
        self.recent.push_back(key.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let reply = chat.is_some() && *choices == 1;
        Ok((request, Some(Keep { key, known, reply }), known - scope.len()))
    }

    /// Caches the states that a row hands out.
    pub(crate) fn note(&mut self, keep: &mut Keep, step: &Step) -> Result<(), Error> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        match step {
            Step::Snapshot { read, context } => {
                cache.insert(&keep.key[..keep.known + read - 1], context.state())
            }
            Step::Token { id, .. } if keep.reply => {
                keep.key.push(*id);
                Ok(())
            }
            Step::End { reason, context, .. } if keep.reply => {
                let read = keep.key.len() - context.pending().len().min(keep.key.len());
                if *reason != Reason::Cancelled && read >= WORTH {
                    return cache.insert(&keep.key[..read], context.state());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Returns ids that begin the keys of a scope; none for the tenant without a name and salt. They
/// are a hash: keys of different scopes have no beginning in common.
fn scope(tenant: &str, salt: &str) -> Vec<u32> {
    if tenant.is_empty() && salt.is_empty() {
        return Vec::new();
    }
    let length = (tenant.len() as u64).to_le_bytes();
    let sum = Sha256::new().chain_update(length).chain_update(tenant).chain_update(salt).finalize();
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    sum.chunks(4).map(word).collect()
}
