//! One generation of a batch, apart from its forward passes.

use super::{RowEvent, RowId, RowRequest, RowStep};
use crate::context::Context;
use crate::detokenize::Detokenizer;
use crate::error::Result;
use crate::generation::{Generation, Reason, TokenLogprobs};
use crate::model::Model;
use crate::sample::Sampler;
use crate::state::State;
use crate::stop::StopMatcher;
use crate::tokenizer::Tokenizer;
use mlx_rs::Array;

/// What one continuation keeps from token to token. Its state is in the batch's while it decodes.
pub(super) struct Row {
    pub(super) id: RowId,
    pub(super) choice: usize,
    pub(super) options: Generation,
    eos: Vec<u32>,
    /// Text side; `None` if the model has no tokenizer.
    text: Option<(Detokenizer, StopMatcher)>,
    /// Up to the last token asked for.
    pub(super) sampler: Sampler,
    /// At the last token handed out.
    reached: Sampler,
    pub(super) context: Context,
    generated: usize,
}

impl Row {
    /// The rows of a request, one a continuation. `prompt` begins with what was pending.
    pub(super) fn all(
        model: &Model,
        tokenizer: Option<&Tokenizer>,
        id: RowId,
        request: &RowRequest,
        prompt: &[u32],
    ) -> Result<Vec<Self>> {
        let (context, options) = (&request.context, &request.options);
        let known = [context.recent.as_slice(), &prompt[context.pending.len()..]].concat();
        let known = Array::from_slice(&known, &[1, known.len() as i32]); // (1, l)
        let eos = options.eos.clone().unwrap_or_else(|| {
            let named = tokenizer.map_or(&[][..], Tokenizer::eos_ids);
            named.iter().chain(&model.config().eos).copied().collect()
        });
        let row = |choice: usize| -> Result<Self> {
            let mut sampling = options.sampling.clone();
            sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
            let mut sampler = Sampler::new(&sampling, model.config().vocab_size)?;
            if let (Some(rng), None, 0) = (context.rng, sampling.seed, choice) {
                sampler.restore(rng);
            }
            sampler.observe(&known)?;
            let text = match tokenizer {
                Some(tokenizer) => Some((
                    Detokenizer::resume(tokenizer, true, &context.tail),
                    StopMatcher::new(&options.stop)?,
                )),
                None => None,
            };
            Ok(Self {
                id,
                choice,
                options: options.clone(),
                eos: eos.clone(),
                text,
                reached: sampler.clone(),
                sampler,
                context: context.clone(),
                generated: 0,
            })
        };
        (0..request.choices.max(1)).map(row).collect()
    }

    /// The event of this row.
    pub(super) fn event(&self, step: RowStep) -> RowEvent {
        RowEvent { row: self.id, choice: self.choice, step }
    }

    /// Notes a piece of the prompt that `state` has read.
    pub(super) fn read(&mut self, piece: &[u32], state: State) {
        // The prompt begins with what was pending, which has been noted already.
        let noted = self.context.pending.len().min(piece.len());
        self.context.pending.drain(..noted);
        self.context.note(&piece[noted..]);
        self.context.read += piece.len() as u64;
        self.context.state = state;
    }

    /// Leaves the rest of the prompt to whoever goes on from the context.
    pub(super) fn put_off(&mut self, rest: &[u32]) {
        let noted = self.context.pending.len();
        self.context.note(&rest[noted..]);
        self.context.pending = rest.to_vec();
    }

    /// The token to read next.
    pub(super) fn last(&self) -> u32 {
        self.context.pending.first().copied().unwrap_or(0)
    }

    /// True until the token that is computed now is the last one.
    pub(super) fn goes_on(&self) -> bool {
        self.generated + 1 < self.options.max_tokens
    }

    /// Hands out the token `id`, drawn with what `reached` was before; says if it was the last.
    pub(super) fn token(
        &mut self,
        id: u32,
        logprobs: Option<TokenLogprobs>,
        reached: Sampler,
    ) -> (RowEvent, Option<Reason>) {
        let more = self.goes_on();
        self.generated += 1;
        self.context.read += self.context.pending.len() as u64;
        self.context.pending = vec![id];
        self.context.note(&[id]);
        self.reached = reached;
        let (text, stop) = match &mut self.text {
            _ if self.eos.contains(&id) => (String::new(), Some(Reason::Eos(id))),
            Some((detokenizer, stops)) => {
                let text = stops.push(&detokenizer.push(id));
                self.context.tail = detokenizer.tail().to_vec();
                (text, stops.hit().map(|i| Reason::Stop(self.options.stop[i].clone())))
            }
            None => (String::new(), None),
        };
        let reason = stop.or(if more { None } else { Some(Reason::Length) });
        (self.event(RowStep::Token { text, id, logprobs }), reason)
    }

    /// The last event, with the text that was held back and the place reached.
    pub(super) fn end(mut self, reason: Reason, state: State) -> Result<RowEvent> {
        let text = match (&mut self.text, &reason) {
            (None, _) | (_, Reason::Stop(_)) => String::new(),
            (Some((detokenizer, stops)), _) => stops.push(&detokenizer.flush()) + &stops.flush(),
        };
        let mut context = self.context.clone();
        context.state = state;
        context.rng = Some(self.reached.rng_state()?);
        Ok(self.event(RowStep::End { text, reason, context }))
    }
}
