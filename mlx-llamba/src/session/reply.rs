//! Replies while they are generated.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::transcript::Part;
use super::{Session, Work};
use crate::decode::generation::{Event, Generation, Reason};
use crate::decode::stream::Stream;
use crate::error::Result;
use crate::template::Message;

/// The events of a reply: chunks of the prompt, then one token at a time, then the end. After an
/// error, or when this is dropped, the tokens handed out so far become the message.
pub struct Reply<'s, 'm> {
    session: &'s mut Session<'m>,
    options: Generation,
    /// The tokens to read; the last entry is the beginning of the reply.
    work: VecDeque<Work>,
    /// The entry being read and its stream.
    current: Option<(Work, Option<Stream<'m>>)>,
    /// The stream of the reply, once all but its beginning has been read.
    stream: Option<Stream<'m>>,
    /// The number of tokens pending when `current` began.
    pending: usize,
    /// The number of tokens of the finished entries, and of all entries.
    read: usize,
    total: usize,
    ids: Vec<u32>,
    /// The number of `ids` with which the template begins the reply.
    beginning: usize,
    text: String,
    started: Instant,
    reading: Duration,
    ended: bool,
}

impl<'s, 'm> Reply<'s, 'm> {
    /// Starts a reply after `work`.
    pub(super) fn new(session: &'s mut Session<'m>, work: Vec<Work>, options: &Generation) -> Self {
        let total = work.iter().map(|work| work.ids.len()).sum();
        Self {
            session,
            options: options.clone(),
            work: work.into(),
            current: None,
            stream: None,
            pending: 0,
            read: 0,
            total,
            ids: Vec::new(),
            beginning: 0,
            text: String::new(),
            started: Instant::now(),
            reading: Duration::ZERO,
            ended: false,
        }
    }

    /// Ends the reply. Returns its message; `None` if no token was handed out.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the state cannot be computed.
    pub fn finish(mut self) -> Result<Option<Message>> {
        self.settle()
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        while !self.ended {
            if let Some(stream) = &mut self.stream {
                let event = stream.next().transpose()?;
                return self.pass(event);
            }
            match self.current.take() {
                None => self.begin()?,
                Some((work, mut stream)) => match stream.as_mut().and_then(Iterator::next) {
                    Some(Ok(Event::Prefill { read, .. })) => {
                        self.current = Some((work, stream));
                        return Ok(Some(self.progress(read)));
                    }
                    Some(Ok(Event::End { reason: Reason::Cancelled, stats, .. })) => {
                        self.ended = true;
                        let (text, reason) = (String::new(), Reason::Cancelled);
                        return Ok(Some(Event::End { text, reason, stats }));
                    }
                    Some(Ok(_)) => self.current = Some((work, stream)),
                    Some(Err(error)) => return Err(error),
                    None => {
                        self.read += work.ids.len();
                        self.session.finish_work(stream, &work)?;
                    }
                },
            }
        }
        Ok(None)
    }

    /// Starts the next entry.
    fn begin(&mut self) -> Result<()> {
        let Some(work) = self.work.pop_front() else {
            self.ended = true;
            return Ok(());
        };
        self.pending = self.session.context.pending().len();
        match work.new.last() {
            Some(piece) if piece.part == Part::Reply => {
                let session = &self.session;
                self.reading = self.started.elapsed();
                (self.ids, self.beginning) = (piece.ids.clone(), piece.ids.len());
                let context = session.context.clone();
                self.stream = Some(session.llamba.resume(context, &piece.ids, &self.options)?);
            }
            _ => {
                let stream = self.session.reading(&work.ids, &self.options)?;
                self.current = Some((work, stream));
            }
        }
        Ok(())
    }

    fn progress(&self, read: usize) -> Event {
        let read = (self.read + read.saturating_sub(self.pending)).min(self.total);
        Event::Prefill { read, total: self.total }
    }

    /// Processes an event of the reply's own stream.
    fn pass(&mut self, event: Option<Event>) -> Result<Option<Event>> {
        Ok(match event {
            Some(Event::Prefill { read, .. }) => Some(self.progress(read)),
            Some(Event::Token { text, id, logprobs }) => {
                self.ids.push(id);
                self.text.push_str(&text);
                Some(Event::Token { text, id, logprobs })
            }
            Some(Event::End { text, reason, mut stats }) => {
                self.text.push_str(&text);
                self.settle()?;
                stats.prompt_tokens = self.total;
                stats.add_reading(self.reading);
                Some(Event::End { text, reason, stats })
            }
            None => None,
        })
    }

    /// Adds the tokens handed out as a message.
    fn settle(&mut self) -> Result<Option<Message>> {
        self.ended = true;
        let (Some(stream), true) = (self.stream.take(), self.ids.len() > self.beginning) else {
            return Ok(None);
        };
        let context = stream.into_context()?;
        let (ids, text) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.text));
        self.session.push_reply(ids, text, context).map(Some)
    }
}

impl Iterator for Reply<'_, '_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

impl Drop for Reply<'_, '_> {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            log::error!("the reply is lost: {error}");
        }
    }
}
