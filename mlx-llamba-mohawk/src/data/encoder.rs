//! Converts texts to token ids, with the tokens that begin and end a document.

use std::ops::Range;
use std::sync::OnceLock;

use mlx_llamba::tokenizer::Rendered;
use mlx_llamba::{ChatOptions, Message, Template, Tokenizer};

use super::{Learned, Text};
use crate::{Error, Result};

/// A tokenizer, and the tokens around a document.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    hash: String,
    vocab: usize,
    begin: Option<u32>,
    end: Option<u32>,
    /// The template of conversations, once there was one.
    template: OnceLock<Template>,
    learned: Learned,
}

/// The token ids of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids; none for an empty text.
    pub ids: Vec<u32>,
    /// The ids that are learned.
    pub learned: Vec<Range<usize>>,
}

impl Encoder {
    /// Makes an encoder for a vocabulary of `vocab` entries. A document begins as the tokenizer
    /// begins a text, or with the token `begin`; it ends with the token `end`, or the first that
    /// ends a text for the tokenizer, if there is one. `hash` identifies the tokenizer.
    ///
    /// # Errors
    /// [`Error::UnknownToken`]; an error for a tokenizer with ids outside of the vocabulary.
    pub fn new(
        tokenizer: &Tokenizer,
        hash: String,
        vocab: usize,
        begin: Option<&str>,
        end: Option<&str>,
    ) -> Result<Self> {
        tokenizer.check_vocabulary(vocab)?;
        let id = |token: &str| {
            tokenizer.token_id(token).ok_or_else(|| Error::UnknownToken { token: token.to_owned() })
        };
        Ok(Self {
            begin: begin.map(id).transpose()?,
            end: end.map(id).transpose()?.or(tokenizer.eos_ids().first().copied()),
            template: OnceLock::new(),
            tokenizer: tokenizer.clone(),
            hash,
            vocab,
            learned: Learned::default(),
        })
    }

    /// Sets the tokens that are learned.
    #[must_use]
    pub fn learned(self, learned: Learned) -> Self {
        Self { learned, ..self }
    }

    /// The number of entries of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Identifies the tokenizer and its options.
    pub(crate) fn name(&self) -> serde_json::Value {
        let mut name =
            serde_json::json!({ "tokenizer": self.hash, "begin": self.begin, "end": self.end });
        // Absent for others, so that the names of their caches stay the same.
        if self.learned != Learned::default() {
            name["learned"] = serde_json::json!(self.learned);
        }
        name
    }

    /// True if some tokens of documents may not be learned.
    pub(crate) fn is_partial(&self) -> bool {
        self.learned != Learned::default()
    }

    /// Returns the ids of a document. A conversation is rendered with the tokenizer's chat template.
    ///
    /// # Errors
    /// Those of the tokenizer and of the template; [`Error::Responses`] if the template shows a message
    /// differently before and after the next one.
    pub fn encode(&self, text: &Text) -> Result<Encoded> {
        let (mut ids, mut learned) = match (&text.messages[..], self.learned) {
            ([], _) if text.text.is_empty() => return Ok(Encoded::default()),
            ([], _) => (self.tokenizer.encode(&text.text, true)?, None),
            (messages, Learned::All) => {
                let whole = self.template()?.render(messages, false, &fixed())?;
                (self.tokenizer.encode_rendered(&whole)?, None)
            }
            (messages, Learned::Responses) => {
                let (ids, responses) = self.turns(messages)?;
                (ids, Some(responses))
            }
        };
        if let Some(begin) = self.begin.filter(|begin| ids.first() != Some(begin)) {
            ids.insert(0, begin);
            for range in learned.iter_mut().flatten() {
                *range = range.start + 1..range.end + 1;
            }
        }
        ids.extend(self.end.filter(|end| ids.last() != Some(end)));
        let all = 0..ids.len();
        Ok(Encoded { ids, learned: learned.unwrap_or_else(|| vec![all]) })
    }

    /// Returns the ids of a conversation, and those of the assistant's messages with their ends. A reply is
    /// encoded apart from what is before it, as it is when a model writes it.
    fn turns(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let template = self.template()?;
        let (mut ids, mut responses, mut done) = (Vec::new(), Vec::new(), String::new());
        let mut add = |whole: &Rendered, ids: &mut Vec<u32>| -> Result<()> {
            if !whole.text().starts_with(&done) {
                return Err(Error::Responses { template: template.name().to_owned() });
            }
            let more = whole.part(done.len(), whole.text().len());
            ids.extend(self.tokenizer.encode_rendered(&more)?);
            whole.text().clone_into(&mut done);
            Ok(())
        };
        let replies =
            messages.iter().enumerate().filter(|(_, message)| message.role == "assistant");
        for (i, _) in replies {
            add(&template.render(&messages[..i], true, &fixed())?, &mut ids)?;
            let start = ids.len();
            add(&template.render(&messages[..=i], false, &fixed())?, &mut ids)?;
            responses.push(start..ids.len());
        }
        add(&template.render(messages, false, &fixed())?, &mut ids)?;
        Ok((ids, responses))
    }

    fn template(&self) -> Result<&Template> {
        if let Some(template) = self.template.get() {
            return Ok(template);
        }
        let template = Template::of(&self.tokenizer, None)?;
        Ok(self.template.get_or_init(|| template))
    }

    /// Returns the ids of each text, computed on all cores.
    pub(crate) fn encode_all(&self, texts: &[Text]) -> Result<Vec<Encoded>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = texts.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let work = |texts: &[Text]| -> Result<Vec<Encoded>> {
                texts.iter().map(|text| self.encode(text)).collect()
            };
            let parts: Vec<_> =
                texts.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
            let mut all = Vec::with_capacity(texts.len());
            for part in parts {
                match part.join() {
                    Ok(ids) => all.extend(ids?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })
    }
}

/// The same text whenever it is made.
fn fixed() -> ChatOptions {
    ChatOptions::default().now(0)
}
