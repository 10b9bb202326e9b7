//! A Llama as the generation loop and the comparison see it.

use mlx_llamba::LanguageModel;
use mlx_llamba::kernels::Backend;
use mlx_rs::Array;

use crate::cache::KvCache;
use crate::llama::Llama;

impl LanguageModel for Llama {
    type State = KvCache;

    fn vocab_size(&self) -> usize {
        self.config().vocab_size
    }

    fn eos(&self) -> &[u32] {
        &self.config().eos
    }

    fn context_length(&self) -> Option<usize> {
        let config = self.config();
        Some(config.rope.longest_cache().unwrap_or(config.max_position_embeddings))
    }

    fn backend(&self) -> Backend {
        self.backend()
    }

    fn start(&self) -> mlx_llamba::Result<KvCache> {
        Ok(KvCache::default())
    }

    fn read(&self, tokens: &Array, state: KvCache) -> mlx_llamba::Result<(Array, KvCache)> {
        let longest = self.config().max_position_embeddings;
        let end = state.read() + tokens.dim(1) as usize;
        let read = self.hidden(tokens, &state)?;
        // Once a text: where it crosses the limit.
        if state.read() <= longest && longest < end {
            log::warn!(
                "the text grows longer than the {longest} tokens that the model was trained on; \
                 what it writes from there on may make no sense"
            );
        }
        Ok(read)
    }

    fn head(&self, hidden: &Array) -> mlx_llamba::Result<Array> {
        self.logits(hidden)
    }

    fn arrays(state: &KvCache) -> Vec<&Array> {
        state.arrays().collect()
    }
}
