//! One continuation of a prompt, apart from the model's state.

use std::collections::VecDeque;

use mlx_rs::Array;

use super::detokenize::Detokenizer;
use super::generation::{Generation, Reason, TokenLogprobs};
use super::request::RequestId;
use super::stop::StopMatcher;
#[cfg(not(feature = "constraints"))]
use super::unconstrained::{Guide, Progress};
#[cfg(feature = "constraints")]
use crate::constraint::{Guide, Progress};
use crate::context::{Context, Position, RECENT};
use crate::error::Result;
use crate::language::LanguageModel;
use crate::sample::Sampler;
use crate::tokenizer::Tokenizer;

/// Everything that a continuation carries from token to token, except the model's state.
pub(super) struct Row {
    pub(super) id: RequestId,
    pub(super) choice: usize,
    pub(super) options: Generation,
    /// The position after the last token handed out.
    pub(super) position: Position,
    /// After the last token requested.
    pub(super) sampler: Sampler,
    /// The random generator's state after the last token handed out.
    reached: [u32; 2],
    eos: Vec<u32>,
    /// `None` if the model has no tokenizer.
    text: Option<(Detokenizer, StopMatcher)>,
    /// The position in the grammar after the last token handed out; `None` without a constraint.
    pub(super) guide: Option<Guide>,
    /// The tokens that the grammar forces after the last one handed out.
    forced: VecDeque<u32>,
    /// Nothing can follow `forced`.
    completes: bool,
    /// The tokens of the prompt and those handed out, for processors of logits.
    history: Vec<u32>,
    generated: usize,
}

/// A token that is handed out.
pub(super) struct Token {
    pub(super) id: u32,
    /// The text that it completes.
    pub(super) text: String,
    pub(super) logprobs: Option<TokenLogprobs>,
    /// Why it is the last one, if it is.
    pub(super) last: Option<Reason>,
}

impl Row {
    /// Returns choice `choice` of the continuations of `prompt`, which begins with the tokens
    /// pending at `position`.
    pub(super) fn new(
        model: &impl LanguageModel,
        tokenizer: Option<&Tokenizer>,
        position: &Position,
        prompt: &[u32],
        options: &Generation,
        (id, choice): (RequestId, usize),
    ) -> Result<Self> {
        let mut sampling = options.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
        let mut sampler =
            Sampler::new(&sampling, model.vocab_size())?.with_backend(model.backend());
        if let (Some(rng), None, 0) = (position.rng, sampling.seed, choice) {
            sampler.restore(rng);
        }
        let mut known = [&position.recent, &prompt[position.pending.len()..]].concat();
        // As many as a context keeps: a prompt that is resumed has the same penalties.
        known.drain(..known.len().saturating_sub(RECENT));
        sampler.observe(&Array::from_slice(&known, &[1, known.len() as i32]))?; // (1, l)
        let eos = options.eos.clone().unwrap_or_else(|| {
            let named = tokenizer.map_or(&[][..], Tokenizer::eos_ids);
            named.iter().chain(model.eos()).copied().collect()
        });
        let text = match tokenizer {
            Some(tokenizer) => Some((
                Detokenizer::resume(tokenizer, true, &position.tail),
                StopMatcher::new(&options.stop)?,
            )),
            None => None,
        };
        let history = if options.processors.is_empty() { Vec::new() } else { known };
        let guide = Self::guide(tokenizer, &eos, model.vocab_size(), options)?;
        Ok(Self {
            id,
            choice,
            options: options.clone(),
            position: position.clone(),
            reached: sampler.rng_state(),
            sampler,
            eos,
            text,
            guide,
            forced: VecDeque::new(),
            completes: false,
            history,
            generated: 0,
        })
    }

    #[cfg(feature = "constraints")]
    fn guide(
        tokenizer: Option<&Tokenizer>,
        eos: &[u32],
        vocab: usize,
        options: &Generation,
    ) -> Result<Option<Guide>> {
        let wanted = options.constraint.as_ref().filter(|_| options.max_tokens > 0);
        let Some(constraint) = wanted else { return Ok(None) };
        constraint.check(tokenizer)?;
        Ok(Some(Guide::new(constraint, eos, vocab)))
    }

    #[cfg(not(feature = "constraints"))]
    fn guide(_: Option<&Tokenizer>, _: &[u32], _: usize, _: &Generation) -> Result<Option<Guide>> {
        Ok(None)
    }

    /// The number of tokens handed out.
    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.options.cancel.is_cancelled()
    }

    /// The tokens to read next: the last one, after those that the grammar forced.
    pub(super) fn unread(&self) -> &[u32] {
        match &self.position.pending[..] {
            [] => &[0],
            pending => pending,
        }
    }

    /// Returns true if the token after the next can be requested before the next is known.
    pub(super) fn can_run_ahead(&self) -> bool {
        self.guide.is_none() && self.options.processors.is_empty()
    }

    /// Returns the logits (1, vocab) that processors make of these, (1, at least vocab).
    pub(super) fn processed(&self, logits: Array) -> Result<Array> {
        let processors = &self.options.processors;
        if processors.is_empty() {
            return Ok(logits);
        }
        let real = self.sampler.real_entries(&logits)?; // (1, vocab)
        processors.apply(&self.history, real)
    }

    /// Returns true unless the next token is the last one in any case.
    pub(super) fn goes_on(&self) -> bool {
        self.generated + 1 < self.options.max_tokens
    }

    /// Hands out the token `id`, after which the random generator's state is `reached`.
    pub(super) fn accept(
        &mut self,
        id: u32,
        logprobs: Option<TokenLogprobs>,
        reached: [u32; 2],
    ) -> Token {
        let limit = if self.goes_on() { None } else { Some(Reason::Length) };
        self.generated += 1;
        self.position.push(id);
        if !self.options.processors.is_empty() {
            self.history.push(id);
        }
        self.reached = reached;
        let (text, stop) = match self.eos.contains(&id) {
            true => (String::new(), Some(Reason::Eos(id))),
            false => self.text_of(id),
        };
        let (text, stop) = match self.follow(id, stop.is_some()) {
            Progress::Open => (text, stop),
            Progress::Complete => (text, Some(Reason::Complete)),
            Progress::Failed(reason) => (String::new(), Some(Reason::Constraint(reason))),
        };
        let last = stop.or(limit);
        if let (Some(guide), None) = (&mut self.guide, &last) {
            // Log-probabilities and processors need the logits of every token.
            if self.options.logprobs.is_none() && self.options.processors.is_empty() {
                let (forced, completes) = guide.skip();
                (self.forced, self.completes) = (forced.into(), completes);
            }
            if !self.completes {
                guide.start();
            }
        }
        Token { id, text, logprobs, last }
    }

    /// Hands out the next token that the grammar forces, which the model reads together with those
    /// around it.
    pub(super) fn forced(&mut self) -> Result<Option<Token>> {
        let Some(id) = self.forced.pop_front() else { return Ok(None) };
        let limit = if self.goes_on() { None } else { Some(Reason::Length) };
        self.generated += 1;
        self.position.append(id);
        self.sampler.force(id)?;
        self.reached = self.sampler.rng_state();
        let (text, stop) = self.text_of(id);
        let completes = self.completes && self.forced.is_empty();
        let last = stop.or(completes.then_some(Reason::Complete)).or(limit);
        Ok(Some(Token { id, text, logprobs: None, last }))
    }

    /// Adds a token to the text. Returns the text that it completes, and the stop string if one ends
    /// there.
    fn text_of(&mut self, id: u32) -> (String, Option<Reason>) {
        let Some((detokenizer, stops)) = &mut self.text else { return (String::new(), None) };
        let text = stops.push(&detokenizer.push(id));
        self.position.tail = detokenizer.tail().to_vec();
        (text, stops.hit().map(|i| Reason::Stop(self.options.stop[i].clone())))
    }

    /// Moves the guide past a token, which may be the last one.
    fn follow(&mut self, id: u32, last: bool) -> Progress {
        match &mut self.guide {
            Some(guide) if last => guide.end(),
            Some(guide) => guide.accept(id),
            None => Progress::Open,
        }
    }

    /// Ends the text and returns what was held back of it.
    pub(super) fn flush(&mut self, reason: &Reason) -> String {
        match (&mut self.text, reason) {
            (None, _) | (_, Reason::Stop(_)) => String::new(),
            (Some((detokenizer, stops)), _) => stops.push(&detokenizer.flush()) + &stops.flush(),
        }
    }

    /// The context after the last token handed out, with `state`, that of the model there.
    pub(super) fn context<S>(&self, state: S) -> Context<S> {
        let position = Position { rng: Some(self.reached), ..self.position.clone() };
        Context { state, position }
    }

    /// The seed in use.
    pub(super) fn seed(&self) -> u64 {
        self.sampler.seed()
    }
}
