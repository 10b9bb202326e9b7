//! Drawing many texts at once.

use std::ops::ControlFlow;

use mlx_llamba::decode::detokenize::Detokenizer;
use mlx_llamba::mlx::floats;
use mlx_llamba::sample::Sampler;
use mlx_llamba::{Sampling, Tokenizer};
use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;

use super::Prompt;
use crate::data::Stream;
use crate::{Error, Result};
use mlx_llamba_teacher::{KvCache, Llama};

/// Options of sampling texts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sampling of a token. Penalties are ignored, and the seed is `seed`.
    pub sampling: Sampling,
    /// Decides every text.
    pub seed: u64,
    /// Tokens that every text begins with, before the prompt.
    pub begin: Vec<u32>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// Tokens of a text, at most.
    pub length: usize,
    /// Texts that are written at a time.
    pub batch: usize,
}

/// A text that was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Prompt and continuation; without the tokens that it begins with, and, unless it answers a
    /// message, without the token that ended it.
    pub text: String,
    /// Tokens, the first and the last among them.
    pub tokens: usize,
    /// It came to its end before its length was reached.
    pub ended: bool,
}

/// Draws texts in groups of [`Options::batch`]. A group depends on its number, the options and the
/// prompts, and on nothing before it.
pub struct Writer<'a> {
    llama: &'a Llama,
    tokenizer: &'a Tokenizer,
    prompts: &'a [Prompt],
    options: Options,
}

impl<'a> Writer<'a> {
    /// Text `i` of all has prompt `i` modulo their number; without prompts, texts have none.
    ///
    /// # Errors
    /// [`Error::TooLong`] of a length over the teacher's context; [`Error::NoBeginning`] if a text
    /// begins with no token; [`mlx_llamba::Error::Argument`] for options that cannot be.
    pub fn new(
        llama: &'a Llama,
        tokenizer: &'a Tokenizer,
        prompts: &'a [Prompt],
        options: Options,
    ) -> Result<Self> {
        let (vocab, context) = (llama.config().vocab_size, llama.config().max_position_embeddings);
        tokenizer.check_vocabulary(vocab)?;
        options.sampling.validate(vocab)?;
        let number = |option, value: usize, expected: &str| mlx_llamba::Error::Argument {
            name: option,
            value: value.to_string(),
            expected: expected.to_owned(),
        };
        if options.batch == 0 || options.batch > 1 << 16 {
            return Err(number("batch", options.batch, "1 to 65536 texts").into());
        }
        if options.length > context {
            let (what, length) = ("synthesis".to_owned(), options.length);
            return Err(Error::TooLong { stage: what, length, context });
        }
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
        let least = options.begin.len() + longest + 1;
        if options.length < least.max(2) {
            let expected = format!("at least {}: the longest beginning and a token", least.max(2));
            return Err(number("length", options.length, &expected).into());
        }
        let empty = prompts.is_empty() || prompts.iter().any(|prompt| prompt.ids.is_empty());
        if options.begin.is_empty() && empty {
            return Err(Error::NoBeginning);
        }
        Ok(Self { llama, tokenizer, prompts, options })
    }

    /// Texts `number * batch` and those after it. `progress` gets the number of tokens so far, and
    /// can end it.
    ///
    /// # Errors
    /// Those of MLX; [`mlx_llamba::Error::Interrupted`].
    pub fn group(
        &self,
        number: u64,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Written>> {
        let Options { batch, length, begin, ends, .. } = &self.options;
        let seed = Stream::new(&[self.options.seed, number]).next();
        let sampling = self.options.sampling.clone().seed(seed);
        let mut sampler = Sampler::new(&sampling, self.llama.config().vocab_size)?;
        let mut drafts: Vec<Draft> = (0..*batch)
            .map(|row| {
                let prompt = self.prompt(number, row);
                let ids = prompt.map_or(&[][..], |prompt| &prompt.ids);
                Draft { ids: [begin, ids].concat(), new: 0, ended: false }
            })
            .collect();
        // Every text has the same number of tokens to read: shorter ones are padded on the left.
        let longest = drafts.iter().map(|draft| draft.ids.len()).max().unwrap_or(0);
        let padding: Vec<usize> = drafts.iter().map(|draft| longest - draft.ids.len()).collect();
        let mut cache = KvCache::padded(&padding);
        let first = drafts.iter().zip(&padding).flat_map(|(draft, &padding)| {
            std::iter::repeat_n(draft.ids[0], padding).chain(draft.ids.iter().copied())
        });
        let first: Vec<u32> = first.collect();
        let mut tokens = Array::from_slice(&first, &[*batch as i32, longest as i32]); // (b, l)
        // The text of each row of the cache, and those that go on.
        let mut rows: Vec<usize> = (0..*batch).collect();
        let mut count = drafts.iter().map(|draft| draft.ids.len()).sum();
        loop {
            let (hidden, next) = self.llama.hidden(&tokens, &cache)?;
            cache = next;
            let last = hidden.try_index((.., -1, ..))?; // (b, d)
            let drawn = sampler.sample(&self.llama.logits(&last)?)?; // (b,)
            eval([&drawn].into_iter().chain(cache.arrays()))?;
            for (&row, id) in rows.iter().zip(floats(&drawn)?) {
                let draft = &mut drafts[row];
                if draft.goes_on(*length) {
                    draft.push(id as u32, ends);
                    count += 1;
                }
            }
            if progress(count).is_break() {
                return Err(mlx_llamba::Error::Interrupted.into());
            }
            let open = |&row: &usize| drafts[row].goes_on(*length);
            let left = rows.iter().filter(|row| open(row)).count();
            if left == 0 {
                break;
            }
            // Leaving a row out copies the others: that pays once a quarter of them is idle.
            let mut ids = drawn;
            if left <= rows.len() * 3 / 4 {
                let kept: Vec<u32> =
                    (0..).zip(&rows).filter(|(_, r)| open(r)).map(|k| k.0).collect();
                rows.retain(open);
                cache = cache.rows(&kept)?;
                ids = ids.try_index(&Array::from_slice(&kept, &[kept.len() as i32]))?;
            }
            tokens = ids.reshape(&[-1, 1])?; // (b, 1)
        }
        Ok((0..).zip(&drafts).map(|(row, draft)| self.written(number, row, draft)).collect())
    }

    fn prompt(&self, group: u64, row: usize) -> Option<&Prompt> {
        let number = group * self.options.batch as u64 + row as u64;
        let count = self.prompts.len().max(1) as u64;
        self.prompts.get((number % count) as usize)
    }

    fn written(&self, group: u64, row: usize, draft: &Draft) -> Written {
        let prompt = self.prompt(group, row);
        let mut text = prompt.map_or(String::new(), |prompt| prompt.text.clone());
        let mut new = &draft.ids[draft.ids.len() - draft.new..];
        if draft.ended && !prompt.is_some_and(|prompt| prompt.chat) {
            new = &new[..new.len() - 1];
        }
        // A text that was cut within a character ends before it.
        let mut detokenizer = Detokenizer::new(self.tokenizer, false);
        text.extend(new.iter().map(|&id| detokenizer.push(id)));
        Written { text, tokens: draft.ids.len(), ended: draft.ended }
    }
}

/// A text in the making.
struct Draft {
    ids: Vec<u32>,
    /// Tokens of it that were drawn.
    new: usize,
    ended: bool,
}

impl Draft {
    fn goes_on(&self, length: usize) -> bool {
        !self.ended && self.ids.len() < length
    }

    fn push(&mut self, id: u32, ends: &[u32]) {
        self.ids.push(id);
        self.new += 1;
        self.ended = ends.contains(&id);
    }
}
