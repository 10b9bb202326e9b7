//! Conversations whose old messages are never read again.

mod back;
mod file;
mod info;
mod reply;
mod stats;
mod transcript;
mod turn;
mod work;

use std::path::Path;

use crate::context::Context;
use crate::decode::generation::Generation;
use crate::error::{Error, Result};
use crate::llamba::Llamba;
use crate::snapshots::{SnapshotBudget, Snapshots};
use crate::template::{ChatOptions, Message, Template};
pub use file::SessionFile;
pub use info::SessionInfo;
pub use reply::Reply;
pub use stats::SessionStats;
use transcript::{Entry, Transcript};
pub use turn::{Turn, TurnDraft, TurnPlan};
use work::Work;

impl Llamba {
    /// Starts a conversation with the tokenizer's own chat template.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`], [`Error::TemplateMissing`], [`Error::Template`].
    pub fn session(&self) -> Result<Session<'_>> {
        let template = Template::of(self.require_tokenizer()?, None)?;
        self.session_with(template, ChatOptions::default())
    }

    /// Starts a conversation with a chat template and its options.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`].
    pub fn session_with(&self, template: Template, options: ChatOptions) -> Result<Session<'_>> {
        let tokenizer = self.require_tokenizer()?.clone();
        let context = self.context()?;
        Ok(Session {
            llamba: self,
            transcript: Transcript { tokenizer, template, options, entries: Vec::new() },
            start: context.clone(),
            context,
            covered: 0,
            snapshots: Snapshots::new(SnapshotBudget::default()),
            tokens_read: 0,
            source: String::new(),
        })
    }
}

/// A conversation: its messages, its tokens exactly as they were read and sampled, and the state
/// after them.
///
/// A turn reads only its own tokens: text is rendered and tokenized once, sampled tokens are kept
/// as they were sampled, and messages that the template would render differently later (some
/// templates remove earlier thinking) stay as they were read. Snapshots at the ends of messages make
/// it cheap to go back. A clone is a fork: it shares the arrays and continues independently.
///
/// Messages are numbered from 0. Those pushed since the last reply are read with the next reply, or
/// by [`read`](Self::read).
#[derive(Clone)]
pub struct Session<'m> {
    llamba: &'m Llamba,
    transcript: Transcript,
    start: Context,
    /// After the first `covered` tokens of the transcript.
    context: Context,
    covered: usize,
    snapshots: Snapshots,
    tokens_read: u64,
    source: String,
}

impl<'m> Session<'m> {
    /// Adds a user message.
    pub fn push_user(&mut self, text: impl Into<String>) {
        self.push(Message::new("user", text));
    }

    /// Adds a system message. Most templates allow one only at the beginning.
    pub fn push_system(&mut self, text: impl Into<String>) {
        self.push(Message::new("system", text));
    }

    /// Adds an assistant message, as if the model had written it.
    pub fn push_assistant(&mut self, text: impl Into<String>) {
        self.push(Message::new("assistant", text));
    }

    /// Adds the result of a tool.
    pub fn push_tool(&mut self, text: impl Into<String>) {
        self.push(Message::new("tool", text));
    }

    /// Adds a message. It is not read yet.
    pub fn push(&mut self, message: Message) {
        self.transcript.entries.push(Entry::new(message));
    }

    /// The messages in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.transcript.entries.iter().map(|entry| &entry.message)
    }

    /// The tokens of the conversation, as they were read and sampled.
    #[must_use]
    pub fn tokens(&self) -> Vec<u32> {
        self.transcript.ids()
    }

    /// The context reached, after [`covered`](Self::covered) tokens.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The number of [`tokens`](Self::tokens) already consumed by the state: all of them, except
    /// after going back to a position without a snapshot.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.covered
    }

    /// The chat template.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.transcript.template
    }

    /// The template's options.
    #[must_use]
    pub fn options(&self) -> &ChatOptions {
        &self.transcript.options
    }

    /// The template's options, to change them for messages not yet read.
    pub fn chat_options(&mut self) -> &mut ChatOptions {
        &mut self.transcript.options
    }

    /// The name under which the model was loaded, if it was set; saved with the session.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Sets the name under which the model was loaded.
    pub fn set_source(&mut self, source: impl Into<String>) {
        self.source = source.into();
    }

    /// Sets the memory budget of snapshots. Of all but the first and the last four, those whose
    /// neighbors are closest together relative to their distance from the end are evicted first.
    pub fn set_snapshot_budget(&mut self, budget: SnapshotBudget) {
        self.snapshots.set_budget(budget);
    }

    /// Returns an independent copy, which shares the arrays.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Generates the assistant's reply: reads the new messages, then yields
    /// [`Event`](crate::Event)s. When the iterator ends or is dropped, the tokens handed out become
    /// a message. If there are none, the session is unchanged, except that messages may have been
    /// read.
    ///
    /// The message's text ends before a stop string; its tokens include that of the stop string.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the messages, [`Error::EmptyPrompt`] if there
    /// is nothing to answer, [`Error::Argument`] for an impossible option.
    pub fn reply<'s>(&'s mut self, options: &Generation) -> Result<Reply<'s, 'm>> {
        let work = self.next_reply(options)?;
        Ok(Reply::new(self, work, options))
    }

    /// Reads the new messages without generating a reply. Returns the number of tokens read. Of
    /// `options`, `prefill` and `cancel` apply.
    ///
    /// # Errors
    /// [`Error::Template`], if it refuses messages without an answer for instance.
    pub fn read(&mut self, options: &Generation) -> Result<usize> {
        let before = self.tokens_read;
        for work in self.transcript.unread(self.covered)? {
            if options.cancel.is_cancelled() {
                break;
            }
            let stream = self.reading(&work.ids, options)?;
            self.finish_work(stream, &work)?;
        }
        Ok((self.tokens_read - before) as usize)
    }

    /// Writes the session to a file, atomically: messages, tokens, template, state, and the newest
    /// snapshots, so that the last turns can be undone without reading them again.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::save(self, path.as_ref())
    }

    /// Loads a session from a file written by [`save`](Self::save).
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged, of another version, model or tokenizer.
    pub fn load(llamba: &'m Llamba, path: impl AsRef<Path>) -> Result<Self> {
        file::load(llamba, path.as_ref())
    }

    /// The tokens to read for the next reply, up to its beginning.
    fn next_reply(&self, options: &Generation) -> Result<Vec<Work>> {
        options.validate(self.llamba.model().config().vocab_size)?;
        self.transcript.next_reply(self.covered)
    }

    /// Adds a reply with its tokens. `context` is the context after them.
    fn push_reply(&mut self, ids: Vec<u32>, text: String, context: Context) -> Result<Message> {
        self.tokens_read += context.read() - self.context.read();
        self.context = context;
        self.covered += ids.len();
        let message = Message::new("assistant", text);
        let mut entry = Entry::new(message.clone());
        (entry.ids, entry.read, entry.sampled) = (ids, true, true);
        self.transcript.entries.push(entry);
        self.snapshots.insert(self.covered, &self.context)?;
        Ok(message)
    }

    /// A stream that reads `ids` and generates nothing.
    fn reading(&self, ids: &[u32], options: &Generation) -> Result<Option<crate::Stream<'m>>> {
        if ids.is_empty() {
            return Ok(None);
        }
        let mut options = options.clone();
        options.max_tokens = 0;
        self.llamba.resume(self.context.clone(), ids, &options).map(Some)
    }

    /// Runs a stream of [`reading`](Self::reading) to its end and commits the tokens read.
    fn finish_work(&mut self, stream: Option<crate::Stream<'m>>, work: &Work) -> Result<()> {
        if let Some(mut stream) = stream {
            stream.by_ref().try_for_each(|event| event.map(drop))?;
            self.take(stream, work.ids.len())?;
        }
        for piece in &work.new {
            self.transcript.commit(piece);
        }
        self.snapshots.insert(self.covered, &self.context)
    }

    /// Takes over the context that a stream of `reading` has reached.
    fn take(&mut self, stream: crate::Stream<'m>, tokens: usize) -> Result<()> {
        let rng = self.context.position.rng;
        let context = stream.into_context()?;
        self.tokens_read += context.read() - self.context.read();
        // Reading draws no random numbers.
        self.context = context;
        self.context.position.rng = rng;
        self.covered += tokens;
        Ok(())
    }
}

fn refused(reason: &str) -> Error {
    Error::Session { reason: reason.to_owned() }
}
