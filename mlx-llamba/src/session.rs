//! A conversation that never reads old text again.

mod file;
mod info;
mod reply;
mod transcript;
mod turn;

use std::path::Path;

use serde::Serialize;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::llamba::Llamba;
use crate::snapshots::{SnapshotBudget, Snapshots};
use crate::template::{ChatOptions, Message, Template};
pub use info::SessionInfo;
pub use reply::Reply;
use transcript::{Entry, Part, Piece, Transcript};
pub use turn::Turn;

impl Llamba {
    /// Starts a conversation with the tokenizer's own chat template.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`], [`Error::TemplateMissing`], [`Error::Template`].
    pub fn session(&self) -> Result<Session<'_>> {
        let template = Template::of(self.require_tokenizer()?, None)?;
        self.session_with(template, ChatOptions::default())
    }

    /// Starts a conversation with any chat template and what it is to see.
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
/// Each turn reads its own tokens and nothing else: text is rendered and tokenized once, sampled
/// tokens stay as they were sampled, and what a template would change in the past (some leave
/// out earlier thinking) stays as it was read. Snapshots at the ends of messages make it cheap to
/// go back. A clone is a fork: it shares the arrays and goes its own way.
///
/// Messages are numbered from 0. Those pushed since the last reply are read when the next reply
/// is asked for, or with [`read`](Self::read).
#[derive(Clone)]
pub struct Session<'m> {
    llamba: &'m Llamba,
    transcript: Transcript,
    start: Context,
    /// The place after the first `covered` tokens of the transcript.
    context: Context,
    covered: usize,
    snapshots: Snapshots,
    tokens_read: u64,
    source: String,
}

/// Counts and sizes of a session.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStats {
    /// Messages, those not yet read included.
    pub messages: usize,
    /// Tokens of the conversation, read and sampled.
    pub tokens: usize,
    /// Tokens that the model has read for this session since it was made or loaded; more than
    /// the conversation has only where text was edited or regenerated.
    pub tokens_read: u64,
    /// After how many tokens there are snapshots.
    pub snapshots: Vec<usize>,
    /// Bytes of the snapshots.
    pub snapshot_bytes: usize,
    /// Bytes that the snapshots may take.
    pub snapshot_budget: usize,
    /// Bytes of the state.
    pub state_bytes: usize,
}

impl<'m> Session<'m> {
    /// Adds a message of the user.
    pub fn push_user(&mut self, text: impl Into<String>) {
        self.push(Message::new("user", text));
    }

    /// Adds a system message. Most templates know one only at the beginning.
    pub fn push_system(&mut self, text: impl Into<String>) {
        self.push(Message::new("system", text));
    }

    /// Adds a message as if the assistant had written it.
    pub fn push_assistant(&mut self, text: impl Into<String>) {
        self.push(Message::new("assistant", text));
    }

    /// Adds the result of a tool.
    pub fn push_tool(&mut self, text: impl Into<String>) {
        self.push(Message::new("tool", text));
    }

    /// Adds any message. Nothing is read yet.
    pub fn push(&mut self, message: Message) {
        self.transcript.entries.push(Entry::new(message));
    }

    /// The messages, in their order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.transcript.entries.iter().map(|entry| &entry.message)
    }

    /// The tokens of the conversation, as they were read and sampled.
    #[must_use]
    pub fn tokens(&self) -> Vec<u32> {
        self.transcript.ids()
    }

    /// The place reached, after [`covered`](Self::covered) tokens.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// How many of the [`tokens`](Self::tokens) the state stands behind: all of them, except
    /// after going back to a place without a snapshot.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.covered
    }

    /// The chat template.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.transcript.template
    }

    /// What the template sees beside the messages. It counts for what has yet to be read.
    pub fn chat_options(&mut self) -> &mut ChatOptions {
        &mut self.transcript.options
    }

    /// The name under which the model was loaded, if it was noted; saved with the session.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Notes under which name the model was loaded.
    pub fn set_source(&mut self, source: impl Into<String>) {
        self.source = source.into();
    }

    /// How much memory snapshots may take. Of all but the first and the last four, those whose
    /// neighbours are close in comparison with their distance from the end are dropped first.
    pub fn set_snapshot_budget(&mut self, budget: SnapshotBudget) {
        self.snapshots.set_budget(budget);
    }

    /// Counts and sizes.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            messages: self.transcript.entries.len(),
            tokens: self.transcript.tokens_before(self.transcript.entries.len()),
            tokens_read: self.tokens_read,
            snapshots: self.snapshots.places().collect(),
            snapshot_bytes: self.snapshots.bytes(),
            snapshot_budget: self.snapshots.budget().bytes,
            state_bytes: self.context.state.nbytes(),
        }
    }

    /// An independent copy: it shares what there is and goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Lets the assistant answer: reads the new messages, then yields one
    /// [`Event`](crate::Event) after the other. What was handed out when the iterator ends or is
    /// dropped has become a message. Before the first token, nothing has changed but that some
    /// messages may have been read.
    ///
    /// A stop string, and what follows it in its token, is not part of the message's text, but
    /// stays in what the model has read, as it has written it.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the messages, [`Error::EmptyPrompt`] if there
    /// is nothing to answer, [`Error::Option`] for an impossible option.
    pub fn reply<'s>(&'s mut self, options: &Generation) -> Result<Reply<'s, 'm>> {
        Reply::new(self, options)
    }

    /// Reads the new messages now, without answering: gives the number of tokens read. Of
    /// `options`, `prefill` and `cancel` count.
    ///
    /// # Errors
    /// [`Error::Template`], if it refuses messages without an answer for instance.
    pub fn read(&mut self, options: &Generation) -> Result<usize> {
        let before = self.tokens_read;
        let mut pieces = self.backlog();
        if self.transcript.read() < self.transcript.entries.len() {
            pieces.extend(gather(self.transcript.plan(false)?));
        }
        for work in pieces {
            if options.cancel.is_cancelled() {
                break;
            }
            let stream = self.reading(&work.ids, options)?;
            self.finish_piece(stream, &work)?;
        }
        Ok((self.tokens_read - before) as usize)
    }

    /// Drops the last message of the user and all that follows it. Gives the number of messages
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Session`] if the user has said nothing.
    pub fn undo(&mut self) -> Result<usize> {
        let entries = &self.transcript.entries;
        let Some(last) = entries.iter().rposition(|entry| entry.message.role == "user") else {
            return Err(refused("there is nothing to undo"));
        };
        let dropped = entries.len() - last;
        self.rewind(last)?;
        Ok(dropped)
    }

    /// Drops the last message if it is the assistant's and answers anew. Without a seed, the
    /// random numbers are others.
    ///
    /// # Errors
    /// [`Error::Session`] if the last message is not the assistant's; those of
    /// [`reply`](Self::reply).
    pub fn regenerate<'s>(&'s mut self, options: &Generation) -> Result<Reply<'s, 'm>> {
        let entries = &self.transcript.entries;
        match entries.last() {
            Some(last) if last.message.role == "assistant" => self.rewind(entries.len() - 1)?,
            _ => return Err(refused("there is no reply to write anew")),
        }
        self.context.rng = None;
        self.reply(options)
    }

    /// Drops message `index` and all that follow it.
    ///
    /// # Errors
    /// [`Error::Session`] if there is no such message.
    pub fn rewind(&mut self, index: usize) -> Result<()> {
        self.check(index)?;
        let start = self.transcript.start_of(index);
        // Messages whose tokens are together with a dropped one's have to be read again.
        let kept: Vec<Entry> = self.transcript.entries[start..index]
            .iter()
            .map(|entry| Entry::new(entry.message.clone()))
            .collect();
        self.transcript.truncate(start);
        self.go_back(self.transcript.tokens_before(start));
        self.transcript.entries.extend(kept);
        Ok(())
    }

    /// Changes the text of a message and keeps all others. If it was read, the state goes back to
    /// the nearest snapshot before it; with the next reply, what follows from there is read
    /// again, the other messages with the tokens they have.
    ///
    /// # Errors
    /// [`Error::Session`] if there is no such message or the template gives it no tokens of its
    /// own; [`Error::Template`] if the template refuses the new text. Then nothing has changed.
    pub fn edit(&mut self, index: usize, text: impl Into<String>) -> Result<()> {
        self.check(index)?;
        let mut changed = self.transcript.clone();
        let last = index + 1 == changed.entries.len();
        let entry = &mut changed.entries[index];
        entry.message.content = text.into();
        if !entry.read {
            self.transcript = changed;
            return Ok(());
        }
        if entry.sampled && entry.closing.is_none() && !last {
            return Err(refused("this message's tokens cannot be told from the next one's"));
        }
        let start = changed.start_of(index);
        let joined = |i: &usize| changed.entries.get(*i).is_some_and(|entry| entry.joined);
        let end = (index + 1..).find(|i| !joined(i)).unwrap_or(index + 1);
        for entry in &mut changed.entries[start..end] {
            entry.ids.clear();
        }
        for piece in changed.plan_part(start, end, false)? {
            // The end of the message before is known, unless the model has yet to read it.
            match piece.part {
                Part::End(before) if changed.entries[before].closing.is_some() => {}
                _ => changed.commit(&piece),
            }
        }
        self.transcript = changed;
        self.go_back(self.transcript.tokens_before(start));
        Ok(())
    }

    /// Writes the session to one file, which appears whole or not at all: messages, tokens,
    /// template, state, and the newest snapshots, so that the last turns can be undone without
    /// reading anything.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        file::save(self, path.as_ref())
    }

    /// The bytes of the file that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be computed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        file::to_bytes(self)
    }

    /// Reads a file that [`save`](Self::save) wrote. The conversation goes on as if it had never
    /// been interrupted.
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged, of another version, model or tokenizer.
    pub fn load(llamba: &'m Llamba, path: impl AsRef<Path>) -> Result<Self> {
        file::load(llamba, path.as_ref())
    }

    /// Reads bytes that [`to_bytes`](Self::to_bytes) gave; `name` is what errors call them.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn from_bytes(llamba: &'m Llamba, bytes: &[u8], name: &str) -> Result<Self> {
        file::from_bytes(llamba, bytes, Path::new(name))
    }

    /// What is to be read for the next reply, up to its beginning.
    fn next_reply(&self, options: &Generation) -> Result<Vec<Work>> {
        options.validate(self.llamba.model().config().vocab_size)?;
        let entries = &self.transcript.entries;
        if entries.is_empty() {
            return Err(refused("there is no message to answer"));
        }
        if entries.last().is_some_and(|entry| entry.sampled && entry.closing.is_none()) {
            return Err(refused("the last message is the assistant's own: push another one first"));
        }
        let mut work = self.backlog();
        work.extend(gather(self.transcript.plan(true)?));
        Ok(work)
    }

    /// Adds a reply with its tokens, after which `context` stands.
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

    fn check(&self, index: usize) -> Result<()> {
        let count = self.transcript.entries.len();
        if index < count {
            return Ok(());
        }
        Err(refused(&format!("there is no message {index}: there are {count}, counted from 0")))
    }

    /// Returns to the nearest place at or before the first `tokens` tokens.
    fn go_back(&mut self, tokens: usize) {
        self.snapshots.truncate(tokens);
        if self.covered <= tokens {
            return;
        }
        let (covered, context) = match self.snapshots.before(tokens) {
            Some((covered, context)) => (covered, context.clone()),
            None => (0, self.start.clone()),
        };
        (self.covered, self.context) = (covered, context);
    }

    /// Tokens of read messages that the state does not stand behind, message by message.
    fn backlog(&self) -> Vec<Work> {
        let (mut work, mut place) = (Vec::new(), 0);
        for entry in &self.transcript.entries {
            let end = place + entry.ids.len();
            if end > self.covered {
                let from = self.covered.max(place) - place;
                work.push(Work { ids: entry.ids[from..].to_vec(), new: Vec::new() });
            }
            place = end;
        }
        work
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

    /// Runs a stream of [`reading`](Self::reading) to its end and notes what it has read.
    fn finish_piece(&mut self, stream: Option<crate::Stream<'m>>, work: &Work) -> Result<()> {
        if let Some(mut stream) = stream {
            stream.by_ref().try_for_each(|event| event.map(drop))?;
            self.take(stream, work.ids.len())?;
        }
        for piece in &work.new {
            self.transcript.commit(piece);
        }
        self.snapshots.insert(self.covered, &self.context)
    }

    /// Takes over the place that a stream of `reading` has reached.
    fn take(&mut self, stream: crate::Stream<'m>, tokens: usize) -> Result<()> {
        let rng = self.context.rng;
        let context = stream.into_context()?;
        self.tokens_read += context.read() - self.context.read();
        // Reading draws no random numbers.
        self.context = Context { rng, ..context };
        self.covered += tokens;
        Ok(())
    }
}

/// Tokens to read in one go: those of a known message, or of new pieces.
#[derive(Debug, Clone, Default)]
struct Work {
    ids: Vec<u32>,
    new: Vec<Piece>,
}

/// New pieces as they are read: the end of a reply with what follows it.
fn gather(pieces: Vec<Piece>) -> Vec<Work> {
    let (mut all, mut next) = (Vec::new(), Work::default());
    for piece in pieces {
        next.ids.extend(&piece.ids);
        let goes_on = matches!(piece.part, Part::End(_));
        next.new.push(piece);
        if !goes_on {
            all.push(std::mem::take(&mut next));
        }
    }
    all
}

fn refused(reason: &str) -> Error {
    Error::Session { reason: reason.to_owned() }
}
