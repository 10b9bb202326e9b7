//! The generation loop: reads the prompt in pieces, then one token after the other.
//!
//! On a GPU it is pipelined: token t+1 is asked for, with MLX's `async_eval`, before token t is
//! handed out, so the device computes while the caller looks at a token. On a CPU MLX keeps at
//! most ten operations waiting, so asking takes about as long as computing: there token t is
//! handed out first.

use std::time::{Duration, Instant};

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Device, DeviceType, memory};

use crate::context::Context;
use crate::detokenize::Detokenizer;
use crate::error::{Error, Result};
use crate::generation::{Completion, Event, Generation, Reason, Stats, TokenLogprobs};
use crate::host;
use crate::language::{LanguageModel, tokens};
use crate::model::Model;
use crate::sample::{Logprobs, Sampler};
use crate::stop::StopMatcher;
use crate::tokenizer::Tokenizer;

/// A generation under way: an iterator of [`Event`]s.
///
/// Dropping it ends the generation; [`into_context`](Self::into_context) gives the place it has
/// reached.
pub struct Stream<'m, M: LanguageModel = Model> {
    model: &'m M,
    options: Generation,
    eos: Vec<u32>,
    /// Text side; `None` if the model has no tokenizer.
    text: Option<(Detokenizer, StopMatcher)>,
    /// Up to the last token asked for.
    sampler: Sampler,
    /// The place after the last token handed out, and the sampler there. The state is away while
    /// the model reads on from it.
    context: Context<Option<M::State>>,
    reached: Sampler,
    phase: Phase<M::State>,
    pipelined: bool,
    stats: Stats,
    started: Instant,
    first: Option<Duration>,
}

enum Phase<S> {
    /// `prompt[at..]` is still to be read.
    Prompt { prompt: Vec<u32>, at: usize },
    /// A token has been asked for.
    Decode(Box<Asked<S>>),
    /// This token (1,) was handed out; the one after it is to be asked for.
    Follow(Array),
    /// The last token was handed out.
    Ending(Reason),
    /// The last event was handed out.
    Ended,
}

/// A token that is being computed.
struct Asked<S> {
    /// The token (1,).
    token: Array,
    logprobs: Option<Logprobs>,
    /// The state before it: after all tokens but this one.
    state: S,
    /// The sampler after it.
    sampler: Sampler,
}

impl<'m, M: LanguageModel> Stream<'m, M> {
    /// Goes on from `context` with the ids of `prompt`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::Option`].
    pub fn new(
        model: &'m M,
        tokenizer: Option<&'m Tokenizer>,
        context: Context<M::State>,
        prompt: &[u32],
        options: &Generation,
    ) -> Result<Self> {
        let vocab_size = model.vocab_size();
        options.validate(vocab_size)?;
        let prompt = [&context.pending, prompt].concat();
        tokens(&[&prompt], vocab_size)?;
        memory::reset_peak_memory()?;
        let pipelined = match options.pipelined {
            Some(pipelined) => pipelined,
            None => matches!(Device::try_default()?.get_type()?, DeviceType::Gpu),
        };
        let mut sampler = Sampler::new(&options.sampling, vocab_size)?;
        if let (Some(rng), None) = (context.rng, options.sampling.seed) {
            sampler.restore(rng);
        }
        let known = [context.recent.as_slice(), &prompt[context.pending.len()..]].concat();
        sampler.observe(&Array::from_slice(&known, &[1, known.len() as i32]))?;
        let eos = options.eos.clone().unwrap_or_else(|| {
            let named = tokenizer.map_or(&[][..], Tokenizer::eos_ids);
            named.iter().chain(model.eos()).copied().collect()
        });
        let text = match tokenizer {
            Some(tokenizer) => Some((
                Detokenizer::resume(tokenizer, true, &context.tail),
                StopMatcher::new(&options.stop)?,
            )),
            None => None,
        };
        let stats = Stats { prompt_tokens: prompt.len(), seed: sampler.seed(), ..Stats::default() };
        Ok(Self {
            model,
            options: options.clone(),
            eos,
            text,
            reached: sampler.clone(),
            sampler,
            context: context.with(Some),
            phase: Phase::Prompt { prompt, at: 0 },
            pipelined,
            stats,
            started: Instant::now(),
            first: None,
        })
    }

    /// The place reached: after the last token handed out.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be computed.
    pub fn into_context(mut self) -> Result<Context<M::State>> {
        if let Phase::Prompt { prompt, at } = std::mem::replace(&mut self.phase, Phase::Ended) {
            self.put_off(&prompt[at..]);
        }
        let state = self.take_state()?;
        eval(M::arrays(&state))?;
        self.context.rng = Some(self.reached.rng_state()?);
        Ok(self.context.with(|_| state))
    }

    /// Runs to the end and collects everything.
    ///
    /// # Errors
    /// The first error of the stream.
    pub fn finish(mut self) -> Result<Completion<M::State>> {
        let (mut text, mut tokens, mut all_logprobs) = (String::new(), Vec::new(), Vec::new());
        loop {
            let event = self.next().unwrap_or(Err(Error::EmptyPrompt))?;
            text.push_str(event.text());
            match event {
                Event::Prompt { .. } => {}
                Event::Token { id, logprobs, .. } => {
                    tokens.push(id);
                    all_logprobs.extend(logprobs);
                }
                Event::End { reason, stats, .. } => {
                    let context = self.into_context()?;
                    let logprobs = all_logprobs;
                    return Ok(Completion { text, tokens, logprobs, reason, stats, context });
                }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => Ok(None),
            Phase::Ending(reason) => self.end(reason).map(Some),
            Phase::Prompt { prompt, at } if self.options.cancel.is_cancelled() => {
                self.put_off(&prompt[at..]);
                self.end(Reason::Cancelled).map(Some)
            }
            Phase::Prompt { prompt, at } => self.read(prompt, at).map(Some),
            // The first token is handed out in any case: without it there is none to go on from.
            Phase::Decode(asked) if self.stats.generated_tokens == 0 => {
                self.decode(*asked).map(Some)
            }
            _ if self.options.cancel.is_cancelled() => self.end(Reason::Cancelled).map(Some),
            Phase::Decode(asked) => self.decode(*asked).map(Some),
            Phase::Follow(token) => {
                let state = self.take_state()?;
                let asked = self.follow(&token, state)?;
                self.decode(asked).map(Some)
            }
        }
    }

    /// Reads the next piece of the prompt; after the last one, asks for the first token.
    fn read(&mut self, prompt: Vec<u32>, at: usize) -> Result<Event> {
        let total = prompt.len();
        let mut end = total.min(at + self.options.prefill);
        if self.options.max_tokens == 0 {
            end = end.min(total - 1);
            if at == end {
                self.put_off(&prompt[at..]);
                self.first = Some(self.started.elapsed());
                self.phase = Phase::Ending(Reason::Length);
                return Ok(Event::Prompt { read: total, total });
            }
        }
        let piece = &prompt[at..end];
        let tokens = tokens(&[piece], self.model.vocab_size())?; // (1, l)
        let state = self.take_state()?;
        let (hidden, state) = self.model.read(&tokens, state)?;
        // The prompt begins with what was pending, which has been noted already.
        let noted = self.context.pending.len().min(piece.len());
        self.context.pending.drain(..noted);
        self.context.note(&piece[noted..]);
        self.context.read += piece.len() as u64;
        self.context.state = Some(state.clone());
        self.phase = if end < total {
            eval(M::arrays(&state))?;
            Phase::Prompt { prompt, at: end }
        } else {
            let last = hidden.try_index((.., -1, ..))?; // (1, d)
            Phase::Decode(Box::new(self.ask(&last, state)?))
        };
        Ok(Event::Prompt { read: end, total })
    }

    /// The state, to read on from.
    fn take_state(&mut self) -> Result<M::State> {
        let lost = || Exception::custom("the state was lost with the error before");
        Ok(self.context.state.take().ok_or_else(lost)?)
    }

    /// Leaves the rest of the prompt to whoever goes on from the context.
    fn put_off(&mut self, rest: &[u32]) {
        // It begins with what was pending, which has been noted already.
        let noted = self.context.pending.len();
        self.context.note(&rest[noted..]);
        self.context.pending = rest.to_vec();
    }

    /// Asks for the token that follows the hidden state `last` (1, d).
    fn ask(&mut self, last: &Array, state: M::State) -> Result<Asked<M::State>> {
        let logits = self.model.head(last)?; // (1, vocab)
        let token = self.sampler.sample(&logits)?; // (1,)
        let logprobs = match self.options.logprobs {
            Some(top) => Some(self.sampler.logprobs(&logits, &token, top)?),
            None => None,
        };
        let extra = logprobs.iter().flat_map(|l| [&l.chosen, &l.top_ids, &l.top]);
        async_eval([&token].into_iter().chain(M::arrays(&state)).chain(extra))?;
        Ok(Asked { token, logprobs, state, sampler: self.sampler.clone() })
    }

    /// Asks for the token after `token` (1,), which `state` has not read.
    fn follow(&mut self, token: &Array, state: M::State) -> Result<Asked<M::State>> {
        let tokens = token.reshape(&[1, 1])?; // (1, 1)
        let (hidden, state) = self.model.read(&tokens, state)?;
        self.ask(&hidden.try_index((.., -1, ..))?, state) // (1, d)
    }

    /// Hands `asked` out; pipelined, asks for the token after it first.
    fn decode(&mut self, asked: Asked<M::State>) -> Result<Event> {
        let more = self.stats.generated_tokens + 1 < self.options.max_tokens;
        let next = if more && self.pipelined {
            Some(self.follow(&asked.token, asked.state.clone())?)
        } else {
            None
        };

        let id = host::ids(&asked.token)?[0];
        let logprobs = asked.logprobs.as_ref().map(token_logprobs).transpose()?;
        self.first.get_or_insert_with(|| self.started.elapsed());
        self.stats.generated_tokens += 1;
        self.context.read += self.context.pending.len() as u64;
        self.context.pending = vec![id];
        self.context.note(&[id]);
        self.context.state = Some(asked.state);
        self.reached = asked.sampler;

        let (text, stop) = match &mut self.text {
            _ if self.eos.contains(&id) => (String::new(), Some(Reason::Eos(id))),
            Some((detokenizer, stops)) => {
                let text = stops.push(&detokenizer.push(id));
                self.context.tail = detokenizer.tail().to_vec();
                (text, stops.hit().map(|i| Reason::Stop(self.options.stop[i].clone())))
            }
            None => (String::new(), None),
        };
        self.phase = match (stop, next) {
            (Some(reason), _) => Phase::Ending(reason),
            (None, Some(next)) => Phase::Decode(Box::new(next)),
            (None, None) if more => Phase::Follow(asked.token),
            (None, None) => Phase::Ending(Reason::Length),
        };
        Ok(Event::Token { text, id, logprobs })
    }

    /// The last event, with the text that was held back.
    fn end(&mut self, reason: Reason) -> Result<Event> {
        let text = match (&mut self.text, &reason) {
            (None, _) | (_, Reason::Stop(_)) => String::new(),
            (Some((detokenizer, stops)), _) => stops.push(&detokenizer.flush()) + &stops.flush(),
        };
        let total = self.started.elapsed();
        self.stats.time(self.first.unwrap_or(total), total);
        self.stats.peak_memory = memory::peak_memory()?;
        Ok(Event::End { text, reason, stats: self.stats.clone() })
    }
}

impl<M: LanguageModel> Iterator for Stream<'_, M> {
    type Item = Result<Event>;

    /// After an error the stream has ended.
    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

fn token_logprobs(logprobs: &Logprobs) -> Result<TokenLogprobs> {
    let ids = host::ids(&logprobs.top_ids)?;
    let values = host::floats(&logprobs.top)?;
    let chosen = host::floats(&logprobs.chosen)?[0];
    Ok(TokenLogprobs { chosen, top: ids.into_iter().zip(values).collect() })
}
