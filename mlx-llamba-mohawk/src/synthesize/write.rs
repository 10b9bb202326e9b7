//! Sampling of many texts at once.

use std::ops::Range;
use std::time::{Duration, Instant};

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
    /// The seed; equal seeds give equal texts.
    pub seed: u64,
    /// The tokens that every text begins with, before the prompt.
    pub begin: Vec<u32>,
    /// The tokens that end a text.
    pub ends: Vec<u32>,
    /// The maximum number of tokens of a text.
    pub length: usize,
    /// The number of texts sampled at once.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        let (sampling, begin, ends) = (Sampling::plain(), Vec::new(), Vec::new());
        Self { sampling, seed: 0, begin, ends, length: 512, batch: 32 }
    }
}

/// A sampled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Prompt and continuation, without the tokens of `begin`, and without the token that ended it
    /// unless it answers a message.
    pub text: String,
    /// The number of tokens, including the first and the last; 0 for an empty text.
    pub tokens: usize,
    /// True if it ended before it reached the maximum length.
    pub ended: bool,
}

/// The number of texts of a group per row of the batch. A row whose text has ended continues with the
/// group's next text; at the end of a group rows wait for each other.
const TURNS: usize = 4;
/// The shortest time between two writes of complete texts.
const PAUSE: Duration = Duration::from_secs(1);

/// Samples texts in groups. A group depends only on its number, the options and the prompts, not on
/// earlier groups.
pub struct Writer<'a> {
    llama: Llama,
    /// The number of parts that take turns: a GPU computes one half of the rows while the host
    /// processes the other.
    parts: usize,
    tokenizer: &'a Tokenizer,
    prompts: &'a [Prompt],
    options: Options,
}

impl<'a> Writer<'a> {
    /// Prepares the sampling. Text `i` has prompt `i` modulo their number; without prompts, texts have
    /// none.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a length above the teacher's context; [`Error::NoBeginning`] if a text
    /// begins with no token; [`mlx_llamba::Error::Argument`] for impossible options.
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

    /// Returns the number of texts in a group.
    pub fn group_size(&self) -> usize {
        self.options.batch * TURNS
    }

    /// Returns the texts of group `number`, in order, or the first ones that together have `enough`
    /// tokens, of which the last is cut there, but has at least one new token. `on_progress` gets the
    /// number of tokens so far and can stop it.
    ///
    /// # Errors
    /// Those of MLX; [`mlx_llamba::Error::Interrupted`].
    pub fn group(
        &self,
        number: u64,
        enough: u64,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<Written>> {
        let mut all = Vec::new();
        let mut keep = |texts: Vec<Written>| {
            all.extend(texts);
            Ok(())
        };
        self.write(number, enough, &mut keep, on_progress)?;
        Ok(all)
    }

    /// Hands out the texts of [`group`](Self::group) as they are complete, at most about once in
    /// [`PAUSE`].
    pub(super) fn write(
        &self,
        number: u64,
        enough: u64,
        on_texts: &mut dyn FnMut(Vec<Written>) -> Result<()>,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
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
        // The tokens sampled so far, and the number of leading texts that are complete, with their tokens.
        let (mut count, mut complete, mut tokens_complete) = (0, 0, 0);
        let (mut handed_out, mut since) = (0, Instant::now());
        let reaches =
            |draft: &Draft, before: u64| draft.new > 0 && before + draft.tokens() as u64 >= enough;
        while drafts.get(complete).is_some_and(|draft| !reaches(draft, tokens_complete)) {
            for part in &mut parts {
                count += part.wait(&mut drafts, ends, *length)?;
                part.go_on(&drafts, *length, &mut waiting)?;
                let Some(tokens) = part.next_tokens(&drafts) else { continue };
                let (hidden, cache) = self.llama.hidden(&tokens, &part.cache)?;
                // The old cache is dropped before the new one is computed, which reuses its memory.
                part.cache = cache;
                let hidden = hidden.try_index((.., -1, ..))?; // (b, d)
                let drawn = sampler.sample(&self.llama.logits(&hidden)?)?; // (b,)
                async_eval([&drawn].into_iter().chain(part.cache.arrays()))?;
                part.drawn = Some(drawn);
            }
            let told = Progress::new("", count as u64, enough).tell(on_progress);
            while let Some(draft) = drafts.get(complete)
                && !draft.goes_on(*length)
                && !reaches(draft, tokens_complete)
            {
                tokens_complete += draft.tokens() as u64;
                complete += 1;
            }
            if complete > handed_out && (told.is_err() || since.elapsed() >= PAUSE) {
                on_texts(self.all_written(number, &drafts, handed_out..complete))?;
                (handed_out, since) = (complete, Instant::now());
            }
            told?;
        }
        if let Some(last) = drafts.get_mut(complete) {
            last.cut((enough - tokens_complete) as usize);
            complete += 1;
        }
        on_texts(self.all_written(number, &drafts, handed_out..complete))
    }

    fn all_written(&self, group: u64, drafts: &[Draft], which: Range<usize>) -> Vec<Written> {
        let texts = which.clone().zip(&drafts[which]);
        texts.map(|(text, draft)| self.written(group, text, draft)).collect()
    }

    fn draft(&self, group: u64, text: usize) -> Draft {
        let prompt = self.prompt(group, text).map_or(&[][..], |prompt| &prompt.ids);
        let begin = &self.options.begin;
        let (ids, is_open) = ([begin, prompt].concat(), prompt.is_empty());
        Draft { ids, new: 0, ended: false, is_open }
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
        Written { text, tokens: draft.tokens(), ended: draft.ended }
    }
}

/// An unfinished text.
struct Draft {
    ids: Vec<u32>,
    /// Its sampled tokens.
    new: usize,
    ended: bool,
    /// It has no prompt.
    is_open: bool,
}

impl Draft {
    fn goes_on(&self, length: usize) -> bool {
        !self.ended && self.ids.len() < length
    }

    /// The number of its tokens; 0 for a text that ended before it began.
    fn tokens(&self) -> usize {
        if self.is_open && self.ended && self.new == 1 { 0 } else { self.ids.len() }
    }

    /// Removes the tokens after the first `length`, but not the first new one.
    fn cut(&mut self, length: usize) {
        let begun = self.ids.len() - self.new;
        let length = length.max(begun + 1);
        if length < self.ids.len() {
            self.ids.truncate(length);
            (self.new, self.ended) = (length - begun, false);
        }
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
    /// Its number in the group.
    text: usize,
    /// The number of its tokens that the model has read.
    read: usize,
}

/// Rows that are computed together.
struct Part {
    rows: Vec<Option<Row>>,
    cache: KvCache,
    /// The tokens (b,) that follow the last ones read, while they are computed.
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

    /// Gives rows whose text has ended the next waiting text, or removes them.
    fn go_on(&mut self, drafts: &[Draft], length: usize, waiting: &mut Range<usize>) -> Result<()> {
        for (place, row) in self.rows.iter_mut().enumerate() {
            if !row.is_some_and(|row| drafts[row.text].goes_on(length)) {
                *row = waiting.next().map(|text| Row { text, read: 0 });
                self.cache.begin(place);
            }
        }
        let kept = (0..self.rows.len() as u32).filter(|&row| self.rows[row as usize].is_some());
        let kept: Vec<u32> = kept.collect();
        // Removing rows copies the others, which pays once a quarter of them is idle.
        if !kept.is_empty() && kept.len() <= self.rows.len() * 3 / 4 {
            self.rows.retain(Option::is_some);
            self.cache = self.cache.rows(&kept)?;
        }
        Ok(())
    }

    /// Returns the tokens (b, 1) that the model reads next; `None` if no row has a text. Rows without
    /// a text read arbitrary tokens.
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
