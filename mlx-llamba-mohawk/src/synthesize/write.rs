//! Drawing many texts at once.

use std::ops::Range;

use derive_setters::Setters;
use mlx_llamba::decode::detokenize::Detokenizer;
use mlx_llamba::mlx::floats;
use mlx_llamba::progress::{OnProgress, Progress};
use mlx_llamba::sample::Sampler;
use mlx_llamba::{Sampling, Tokenizer};
use mlx_llamba_kernels::mlx::current_device;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::async_eval;
use mlx_rs::{Array, DeviceType};

use super::Prompt;
use crate::data::Stream;
use crate::{Error, Result};
use mlx_llamba_teacher::{KvCache, Llama};

/// Options of sampling texts.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
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

impl Default for Options {
    fn default() -> Self {
        let (sampling, begin, ends) = (Sampling::plain(), Vec::new(), Vec::new());
        Self { sampling, seed: 0, begin, ends, length: 512, batch: 32 }
    }
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

/// Texts of a group for each row of a batch. A row that has ended its text goes on with the group's
/// next one; at the end of a group rows wait for each other.
const TURNS: usize = 4;

/// Draws texts in groups. A group depends on its number, the options and the prompts, and on
/// nothing before it.
pub struct Writer<'a> {
    llama: Llama,
    /// Parts that take turns: on a GPU one half of the rows is computed while the host looks at the
    /// other.
    parts: usize,
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
        let gpu = matches!(current_device()?, DeviceType::Gpu);
        let llama = if gpu { llama.dequantized()? } else { llama.clone() };
        let parts = if gpu { options.batch.min(2) } else { 1 };
        Ok(Self { llama, parts, tokenizer, prompts, options })
    }

    /// The number of texts in a group.
    pub fn group_size(&self) -> usize {
        self.options.batch * TURNS
    }

    /// The texts of group `number`, in order, or the first ones that together have `enough` tokens.
    /// `on_progress` gets the number of tokens so far, and can end it.
    ///
    /// # Errors
    /// Those of MLX; [`mlx_llamba::Error::Interrupted`].
    pub fn group(
        &self,
        number: u64,
        enough: u64,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<Written>> {
        let Options { batch, length, ends, .. } = &self.options;
        let seed = Stream::new(&[self.options.seed, number]).next();
        let sampling = self.options.sampling.clone().seed(seed);
        let mut sampler = Sampler::new(&sampling, self.llama.config().vocab_size)?
            .with_backend(self.llama.backend());
        let mut drafts: Vec<Draft> =
            (0..self.group_size()).map(|text| self.draft(number, text)).collect();
        let mut waiting = 0..drafts.len();
        let sizes = (0..self.parts).map(|i| (batch + i) / self.parts);
        let mut parts: Vec<Part> = sizes.map(|rows| Part::new(rows, *length)).collect();
        // Tokens in the works, and the texts at the beginning that are complete, with theirs.
        let (mut count, mut complete, mut tokens_complete) = (0, 0, 0);
        while complete < drafts.len() && tokens_complete < enough {
            for part in &mut parts {
                count += part.wait(&mut drafts, ends, *length)?;
                part.go_on(&drafts, *length, &mut waiting)?;
                let Some(tokens) = part.next_tokens(&drafts) else { continue };
                let (hidden, cache) = self.llama.hidden(&tokens, &part.cache)?;
                // The old cache must be gone when the new one is computed, to be written over.
                part.cache = cache;
                let hidden = hidden.try_index((.., -1, ..))?; // (b, d)
                let drawn = sampler.sample(&self.llama.logits(&hidden)?)?; // (b,)
                async_eval([&drawn].into_iter().chain(part.cache.arrays()))?;
                part.drawn = Some(drawn);
            }
            Progress::new("", count as u64, enough).tell(on_progress)?;
            let done = drafts[complete..].iter().take_while(|draft| !draft.goes_on(*length));
            let done: Vec<u64> = done.map(|draft| draft.ids.len() as u64).collect();
            complete += done.len();
            tokens_complete += done.iter().sum::<u64>();
        }
        let drafts = (0..).zip(&drafts[..complete]);
        Ok(drafts.map(|(text, draft)| self.written(number, text, draft)).collect())
    }

    fn draft(&self, group: u64, text: usize) -> Draft {
        let prompt = self.prompt(group, text).map_or(&[][..], |prompt| &prompt.ids);
        Draft { ids: [&self.options.begin, prompt].concat(), new: 0, ended: false }
    }

    fn prompt(&self, group: u64, text: usize) -> Option<&Prompt> {
        let number = group * self.group_size() as u64 + text as u64;
        let count = self.prompts.len().max(1) as u64;
        self.prompts.get((number % count) as usize)
    }

    fn written(&self, group: u64, text: usize, draft: &Draft) -> Written {
        let prompt = self.prompt(group, text);
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

/// A row of the batch, with a text.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Its place in the group.
    text: usize,
    /// Tokens of it that the model was given.
    read: usize,
}

/// Rows that are computed together.
struct Part {
    rows: Vec<Option<Row>>,
    cache: KvCache,
    /// The tokens after those that the model was given last (b,), while they are computed.
    drawn: Option<Array>,
}

impl Part {
    fn new(rows: usize, length: usize) -> Self {
        Self { rows: vec![None; rows], cache: KvCache::ring(rows, length), drawn: None }
    }

    /// Waits for the tokens and adds them to the texts that have no next token yet. Returns the
    /// number of tokens that the model has read, and of those that ended a text.
    fn wait(&mut self, drafts: &mut [Draft], ends: &[u32], length: usize) -> Result<usize> {
        let Some(drawn) = self.drawn.take() else { return Ok(0) };
        let mut count = 0;
        for (row, id) in self.rows.iter().zip(floats(&drawn)?) {
            let Some(row) = row else { continue };
            let draft = &mut drafts[row.text];
            count += 1;
            if row.read == draft.ids.len() {
                draft.push(id as u32, ends);
                count += usize::from(!draft.goes_on(length));
            }
        }
        Ok(count)
    }

    /// Gives rows whose text has ended the next one that waits, or leaves them out.
    fn go_on(&mut self, drafts: &[Draft], length: usize, waiting: &mut Range<usize>) -> Result<()> {
        for (place, row) in self.rows.iter_mut().enumerate() {
            if !row.is_some_and(|row| drafts[row.text].goes_on(length)) {
                *row = waiting.next().map(|text| Row { text, read: 0 });
                self.cache.begin(place);
            }
        }
        let kept = (0..self.rows.len() as u32).filter(|&row| self.rows[row as usize].is_some());
        let kept: Vec<u32> = kept.collect();
        // Leaving rows out copies the others: that pays once a quarter of them is idle.
        if !kept.is_empty() && kept.len() <= self.rows.len() * 3 / 4 {
            self.rows.retain(Option::is_some);
            self.cache = self.cache.rows(&kept)?;
        }
        Ok(())
    }

    /// The tokens (b, 1) that the model reads next; `None` if no row has a text. Rows without one
    /// read anything.
    fn next_tokens(&mut self, drafts: &[Draft]) -> Option<Array> {
        let mut ids = vec![0; self.rows.len()];
        let mut any = false;
        for (id, row) in ids.iter_mut().zip(&mut self.rows) {
            if let Some(row) = row {
                *id = drafts[row.text].ids[row.read];
                row.read += 1;
                any = true;
            }
        }
        any.then(|| Array::from_slice(&ids, &[ids.len() as i32, 1]))
    }
}
