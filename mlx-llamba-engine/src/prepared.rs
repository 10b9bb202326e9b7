//! Requests whose prompts are tokens.

use std::sync::Arc;

use mlx_llamba::session::{TurnDraft, TurnPlan};
use mlx_llamba::{ChatOptions, Message, Template};

use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::request::{Prompt, Request, Settings};
use crate::sessions::Claim;

/// A request whose prompt was rendered, tokenized and checked, ready for the queue.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) source: Source,
    pub(crate) settings: Settings,
    pub(crate) tenant: Arc<str>,
    text: Option<String>,
}

/// The tokens to read.
#[derive(Debug)]
pub(crate) enum Source {
    /// The whole prompt. The reply in a chat is likely to begin a later prompt.
    Tokens { ids: Vec<u32>, chat: Option<Chat> },
    /// The next messages of a session, which has read the ones before.
    Session { claim: Claim, plan: TurnPlan },
}

/// A prompt that is a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chat {
    /// The number of tokens before the first message that is no system message, which other
    /// conversations are likely to begin with; 0 if that is not known.
    pub(crate) beginning: usize,
}

impl Prepared {
    /// The prompt's token ids; empty in a session, which plans its own reading.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        match &self.source {
            Source::Tokens { ids, .. } => ids,
            Source::Session { .. } => &[],
        }
    }

    /// The prompt as text: what the chat template rendered, or the new messages of a session.
    /// `None` if the prompt was given as tokens.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Bytes of the prompt, as text and as tokens.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tokens = match &self.source {
            Source::Tokens { ids, .. } => ids.len(),
            Source::Session { plan, .. } => plan.prompt_tokens(),
        };
        size_of::<u32>() * tokens + self.text.as_ref().map_or(0, String::len)
    }

    /// The number of continuations.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.settings.choices
    }

    /// True if log-probabilities of the prompt are asked for.
    #[must_use]
    pub fn prompt_logprobs(&self) -> bool {
        self.settings.prompt_logprobs
    }
}

/// Everything that preparing needs of a model.
#[derive(Clone)]
pub(crate) struct Preparer {
    pub(crate) encoder: Encoder,
    pub(crate) template: Option<Template>,
    /// Entries of the vocabulary.
    pub(crate) vocab: usize,
    /// Continuations that can be computed at once.
    pub(crate) slots: usize,
    /// The tenant that requests come from.
    pub(crate) tenant: Arc<str>,
}

impl Preparer {
    /// Renders, tokenizes and checks a prompt; `session` is the claim on the session it names.
    pub(crate) fn prepare(
        &self,
        request: Request,
        session: Option<(Claim, TurnDraft)>,
    ) -> Result<Prepared> {
        let Request { prompt, settings } = request;
        let limit = if session.is_some() { 1 } else { self.slots };
        if !(1..=limit).contains(&settings.choices) {
            return Err(Error::Choices { choices: settings.choices, limit });
        }
        let (source, text) = match (prompt, session) {
            (Prompt::Text(text), _) => {
                (self.tokens(self.encoder.encode(&text, true)?, None)?, Some(text))
            }
            (Prompt::Tokens(ids), _) => (self.tokens(ids, None)?, None),
            (Prompt::Chat { messages, options }, _) => {
                self.chat(&messages, &options, settings.continue_last)?
            }
            (Prompt::Session { messages, .. }, Some((claim, draft))) => {
                self.turn(messages, claim, draft)?
            }
            (Prompt::Session { id, .. }, None) => return Err(Error::UnknownSession { id }),
        };
        Ok(Prepared { source, settings, tenant: self.tenant.clone(), text })
    }

    fn tokens(&self, ids: Vec<u32>, chat: Option<Chat>) -> Result<Source> {
        if ids.is_empty() {
            return Err(mlx_llamba::Error::EmptyPrompt.into());
        }
        self.encoder.check_length(ids.len())?;
        let vocab_size = self.vocab;
        if let Some(position) = ids.iter().position(|&id| id as usize >= vocab_size) {
            let id = ids[position];
            return Err(mlx_llamba::Error::TokenOutOfRange { id, position, vocab_size }.into());
        }
        Ok(Source::Tokens { ids, chat })
    }

    fn chat(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        continue_last: bool,
    ) -> Result<(Source, Option<String>)> {
        let template = self.template.as_ref().ok_or(Error::NoTemplate)?;
        if messages.is_empty() {
            return Err(Error::NoMessages);
        }
        let rendered = match continue_last {
            true => template.render_open(messages, options)?,
            false => template.render(messages, true, options)?,
        };
        let ids = self.encoder.encode_rendered(&rendered)?;
        let beginning = self.beginning(template, messages, options, &ids).unwrap_or(0);
        let source = self.tokens(ids, Some(Chat { beginning }))?;
        Ok((source, Some(rendered.into_text())))
    }

    /// The number of tokens of `ids` that a conversation with another first message has too.
    fn beginning(
        &self,
        template: &Template,
        messages: &[Message],
        options: &ChatOptions,
        ids: &[u32],
    ) -> Option<usize> {
        let system = messages.iter().take_while(|message| message.role == "system").count();
        let first = messages.get(system)?;
        let tools = options.tools.is_some();
        if system == 0 && !tools || first.content.is_empty() {
            return None;
        }
        let mut other = messages[..=system].to_vec();
        let begins = |text: &&str| !first.content.trim_start().starts_with(*text);
        other.last_mut()?.content = ["A", "1"].into_iter().find(begins)?.to_owned();
        let other = template.render(&other, false, options).ok()?;
        let other = self.encoder.encode_rendered(&other).ok()?;
        Some(ids.iter().zip(&other).take_while(|(a, b)| a == b).count())
    }

    fn turn(
        &self,
        messages: Vec<Message>,
        claim: Claim,
        mut draft: TurnDraft,
    ) -> Result<(Source, Option<String>)> {
        if messages.is_empty() {
            return Err(Error::NoMessages);
        }
        let text = messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n");
        messages.into_iter().for_each(|message| draft.push(message));
        let plan = self.encoder.plan(draft, &text)?;
        self.encoder.check_length(plan.prompt_tokens())?;
        Ok((Source::Session { claim, plan }, Some(text)))
    }
}
