//! Encodes texts within a bound of memory.

use std::sync::Arc;

use mlx_llamba::Tokenizer;
use mlx_llamba::session::{TurnDraft, TurnPlan};
use mlx_llamba::tokenizer::Rendered;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};
use crate::options::Options;
use crate::wait::wait;

/// Bytes of a permit.
const UNIT: usize = 1 << 10;

/// A tokenizer that waits for memory before it encodes a text. A clone shares everything.
#[derive(Clone)]
pub(crate) struct Encoder {
    pub(crate) tokenizer: Tokenizer,
    /// Permits for the memory that is free.
    free: Arc<Semaphore>,
    memory: usize,
    /// Tokens that a prompt may have.
    pub(crate) longest: usize,
}

impl Encoder {
    pub(crate) fn new(tokenizer: Tokenizer, options: &Options) -> Self {
        let memory = options.prompt_memory.min(u32::MAX as usize * UNIT);
        let free = Arc::new(Semaphore::new(memory.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)));
        Self { tokenizer, free, memory, longest: options.prompt_tokens }
    }

    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let _memory = self.acquire(text, false)?;
        Ok(self.tokenizer.encode(text, special)?)
    }

    pub(crate) fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let _memory = self.acquire(rendered.text(), rendered.is_guarded())?;
        Ok(self.tokenizer.encode_rendered(rendered)?)
    }

    /// Renders and encodes the next messages of a session, of which `text` is the content.
    pub(crate) fn plan(&self, draft: TurnDraft, text: &str) -> Result<TurnPlan> {
        let _memory = self.acquire(text, true)?;
        Ok(draft.plan()?)
    }

    pub(crate) fn check_length(&self, tokens: usize) -> Result<()> {
        let limit = self.longest;
        if tokens > limit { Err(Error::PromptTooLong { tokens, limit }) } else { Ok(()) }
    }

    /// Waits for the memory that encoding a text may take. Those who have it never wait for more.
    fn acquire(&self, text: &str, guarded: bool) -> Result<SemaphorePermit<'_>> {
        self.check_length(self.tokenizer.fewest_tokens(text))?;
        let needed = self.tokenizer.encoding_memory(text, guarded);
        if needed > self.memory {
            let (bytes, limit) = (text.len(), self.memory);
            return Err(Error::PromptMemory { bytes, needed, limit });
        }
        let permits = needed.div_ceil(UNIT) as u32;
        wait(self.free.acquire_many(permits)).map_err(|_| Error::Closed)
    }
}
