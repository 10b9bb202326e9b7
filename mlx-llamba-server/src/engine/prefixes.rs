//! States of earlier prompts and replies, for requests that begin with them.
//!
//! Two kinds of places are kept: ends of replies in conversations, which the next request of the
//! conversation begins with, and places up to which a prompt equals one of the last ones: the
//! first request pays nothing for being the first, and from the third on the beginning that they
//! share is not read again.

use std::collections::VecDeque;

use mlx_llamba::batch::{RowRequest, RowStep};
use mlx_llamba::{Context, Error, Llamba, PrefixCache, Reason};

use super::job::Job;
use crate::options::Options;

/// Prompts that new ones are compared with.
const RECENT: usize = 32;
/// A beginning with fewer tokens than this is read as fast as it is found.
const WORTH: usize = 16;

/// A cache, and what tells which places are worth keeping.
pub(super) struct Prefixes {
    cache: Option<PrefixCache>,
    recent: VecDeque<Vec<u32>>,
}

/// What to keep of a job.
pub(super) struct Keep {
    /// The prompt, and what was generated, one continuation only.
    tokens: Vec<u32>,
    /// Tokens that were known.
    known: usize,
    reply: bool,
}

impl Prefixes {
    /// Within the options' bounds; with no memory, keeps nothing.
    pub(super) fn new(llamba: &Llamba, options: &Options) -> Result<Self, Error> {
        let limits = &options.limits;
        let (recent, memory) = (VecDeque::new(), limits.cache_memory);
        if memory == 0 {
            return Ok(Self { cache: None, recent });
        }
        let mut cache = PrefixCache::new(llamba.model(), memory);
        if let Some(directory) = &options.cache_directory {
            cache = cache.with_directory(directory, limits.cache_disk)?;
        }
        Ok(Self { cache: Some(cache), recent })
    }

    /// Bytes of the states kept, in memory and on the disk.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let stats = self.cache.as_ref().map(PrefixCache::stats);
        stats.map_or((0, 0), |stats| (stats.bytes, stats.disk_bytes as usize))
    }

    /// Writes what is in memory to the disk, if there is a place for it.
    pub(super) fn flush(&mut self) {
        if let Some(Err(error)) = self.cache.as_mut().map(PrefixCache::flush) {
            log::warn!("states of prompts are lost: {error}");
        }
    }

    /// A job as a row, which begins where the longest known beginning of its prompt ends.
    pub(super) fn request(
        &mut self,
        llamba: &Llamba,
        job: &Job,
    ) -> Result<(RowRequest, Option<Keep>, usize), Error> {
        let request = |context, prompt: &[u32]| RowRequest {
            choices: job.choices,
            prompt_logprobs: job.prompt_logprobs,
            ..RowRequest::new(context, prompt.to_vec(), job.options.clone())
        };
        // Whoever wants to know of every token of the prompt has to have it read.
        let whole = job.prompt_logprobs || job.options.sampling.repetition_penalty != 1.0;
        let cache = self.cache.as_mut().filter(|_| !whole && job.options.max_tokens > 0);
        let Some(cache) = cache else {
            return Ok((request(llamba.context()?, &job.prompt), None, 0));
        };
        let (context, known) = match cache.find(llamba.model(), &job.prompt)? {
            Some(hit) => (Context::after(hit.state, &job.prompt[..hit.length]), hit.length),
            None => (llamba.context()?, 0),
        };
        let mut request = request(context, &job.prompt[known..]);
        let alike =
            |other: &Vec<u32>| other.iter().zip(&job.prompt).take_while(|(a, b)| a == b).count();
        let shared = self.recent.iter().map(alike).max().unwrap_or(0);
        // At least one token is left to read.
        let shared = shared.min(job.prompt.len() - 1);
        if shared >= known + WORTH {
            request.snapshots = vec![shared + 1 - known];
        }
        self.recent.push_back(job.prompt.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let reply = job.keep && job.choices == 1;
        Ok((request, Some(Keep { tokens: job.prompt.clone(), known, reply }), known))
    }

    /// Keeps what is worth keeping of what a row did.
    pub(super) fn note(&mut self, keep: &mut Keep, step: &RowStep) -> Result<(), Error> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        match step {
            RowStep::Snapshot { read, context } => {
                cache.insert(&keep.tokens[..keep.known + read - 1], context.state())
            }
            RowStep::Token { id, .. } if keep.reply => {
                keep.tokens.push(*id);
                Ok(())
            }
            RowStep::End { reason, context, .. } if keep.reply => {
                let read = keep.tokens.len() - context.pending().len().min(keep.tokens.len());
                if *reason != Reason::Cancelled && read >= WORTH {
                    return cache.insert(&keep.tokens[..read], context.state());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
