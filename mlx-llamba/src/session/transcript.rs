//! The messages of a conversation as text and tokens.
//!
//! Text is tokenized once. To find the text of new messages, the conversation is rendered with a
//! marker in place of the last message that was read: the text after the marker is new. So the
//! template's rendering of earlier messages does not matter: their tokens stay as they were read.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::template::{ChatOptions, Message, Template};
use crate::tokenizer::Tokenizer;

/// The number of unread messages, from the end, whose boundaries are searched for: each search takes
/// a rendering.
const BORDERS: usize = 64;

/// A message and its tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    /// Its tokens; empty before it is read.
    pub(crate) ids: Vec<u32>,
    pub(crate) read: bool,
    /// Merged with the message before, whose tokens include those of this one.
    pub(crate) joined: bool,
    /// True if the model generated it.
    pub(crate) sampled: bool,
    /// The number of its last tokens that the template adds after a reply; unknown until the next
    /// message is read.
    pub(crate) closing: Option<usize>,
}

impl Entry {
    pub(crate) fn new(message: Message) -> Self {
        let (ids, read, joined) = (Vec::new(), false, false);
        Self { message, ids, read, joined, sampled: false, closing: None }
    }
}

/// Tokens to read, and the entries they belong to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) ids: Vec<u32>,
    pub(crate) part: Part,
}

/// The part of a conversation that the tokens of a piece belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The end of this entry, which the model generated.
    End(usize),
    /// The entries from the first up to, not including, the second.
    Entries(usize, usize),
    /// The beginning of a reply.
    Reply,
}

/// The messages of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Transcript {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Template,
    pub(crate) options: ChatOptions,
    pub(crate) entries: Vec<Entry>,
}

impl Transcript {
    /// The number of tokens before an entry.
    pub(crate) fn tokens_before(&self, entry: usize) -> usize {
        self.entries[..entry].iter().map(|entry| entry.ids.len()).sum()
    }

    /// All tokens that were read.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.entries.iter().flat_map(|entry| entry.ids.iter().copied()).collect()
    }

    /// The number of entries that were read: all but some at the end.
    pub(crate) fn read(&self) -> usize {
        self.entries.iter().take_while(|entry| entry.read).count()
    }

    /// The first of the entries merged with `entry`.
    pub(crate) fn start_of(&self, entry: usize) -> usize {
        (0..=entry).rev().find(|&i| !self.entries[i].joined).unwrap_or(0)
    }

    /// Removes the entries from `entry` on, and the tokens that the template added after the entry
    /// before them because they followed.
    pub(crate) fn truncate(&mut self, entry: usize) {
        self.entries.truncate(entry);
        if let Some(last) = self.entries.last_mut().filter(|last| last.sampled) {
            let closing = last.closing.take().unwrap_or(0);
            last.ids.truncate(last.ids.len().saturating_sub(closing));
        }
    }

    /// The tokens to read of all unread messages and, with `reply`, of the beginning of a reply.
    pub(crate) fn plan(&self, reply: bool) -> Result<Vec<Piece>> {
        self.plan_part(self.read(), self.entries.len(), reply)
    }

    /// The same for the entries from `from` up to `to` when all before have been read.
    pub(crate) fn plan_part(&self, from: usize, to: usize, reply: bool) -> Result<Vec<Piece>> {
        let messages: Vec<&Message> = self.entries[..to].iter().map(|e| &e.message).collect();
        let marker = self.marker();
        let marked;
        let mut seen = messages;
        if from > 0 {
            let mut message = seen[from - 1].clone();
            message.content.clone_from(&marker);
            marked = message;
            seen[from - 1] = &marked;
        }
        let render = |count: usize, reply: bool| {
            self.template.render_refs(&seen[..count], reply, &self.options)
        };
        let full = render(to, reply)?;
        let base = match (from, full.text().rfind(&marker)) {
            (0, _) => 0,
            (_, Some(at)) => at + marker.len(),
            (_, None) => return Err(self.bad("it leaves out a message that was read already")),
        };
        // A rendering of fewer messages shows the end of its last one.
        let border = |count: usize| {
            let text = render(count, false).ok()?.into_text();
            (text.len() >= base && full.text().starts_with(&text)).then(|| text.len() - base)
        };
        let tail = full.part(base, full.text().len());
        let ids = self.tokenizer.encode_rendered(&tail)?;
        let place = |border: usize| {
            let head = self.tokenizer.encode_rendered(&tail.part(0, border)).ok()?;
            ids.starts_with(&head).then_some(head.len())
        };

        let mut pieces = Vec::new();
        let (mut done, mut entry) = (0, from);
        if let Some(last) = from.checked_sub(1) {
            let end = border(from).and_then(place);
            let before = &self.entries[last];
            done = match end {
                // The model may have generated the end of the message, or its first token.
                Some(end) if before.closing.is_some() => end,
                Some(end) => {
                    let written = usize::from(end > 0 && self.ends(before, ids[0]));
                    let ids = ids[written..end].to_vec();
                    pieces.push(Piece { ids, part: Part::End(last) });
                    end
                }
                None if before.closing.is_some() => {
                    return Err(self.bad(
                        "it writes what was read already differently once more messages follow",
                    ));
                }
                None => usize::from(ids.first().is_some_and(|&id| self.ends(before, id))),
            };
        }
        let first = to.saturating_sub(BORDERS);
        let candidates = (from + 1..=to).filter(|&i| i > first || i == from + 1);
        for next in candidates {
            let at =
                if next == to && !reply { Some(ids.len()) } else { border(next).and_then(place) };
            if let Some(at) = at.filter(|&at| at >= done) {
                pieces
                    .push(Piece { ids: ids[done..at].to_vec(), part: Part::Entries(entry, next) });
                (done, entry) = (at, next);
            }
        }
        if reply {
            // Entries whose end was not found are read with the beginning of the reply.
            if entry < to {
                let at = ids.len();
                let part = Part::Entries(entry, to);
                pieces.push(Piece { ids: ids[done..at].to_vec(), part });
                done = at;
            }
            pieces.push(Piece { ids: ids[done..].to_vec(), part: Part::Reply });
        }
        Ok(pieces)
    }

    /// Marks a piece as read.
    pub(crate) fn commit(&mut self, piece: &Piece) {
        match piece.part {
            Part::End(entry) => {
                self.entries[entry].ids.extend(&piece.ids);
                self.entries[entry].closing = Some(piece.ids.len());
            }
            Part::Entries(from, to) => {
                for (i, entry) in self.entries[from..to].iter_mut().enumerate() {
                    let ids = if i == 0 { piece.ids.clone() } else { Vec::new() };
                    entry.ids = ids;
                    (entry.read, entry.closing) = (true, Some(0));
                    (entry.joined, entry.sampled) = (i > 0, false);
                }
            }
            Part::Reply => {}
        }
    }

    /// Returns true if the model ended `entry` by itself and `id` only repeats that.
    fn ends(&self, entry: &Entry, id: u32) -> bool {
        let eos = self.tokenizer.eos_ids();
        entry.sampled && eos.contains(&id) && entry.ids.last().is_some_and(|id| eos.contains(id))
    }

    /// A text that occurs in no message.
    fn marker(&self) -> String {
        let stands =
            |marker: &String| self.entries.iter().any(|e| e.message.content.contains(marker));
        let mut marker = "\u{f8ff}here\u{f8ff}".to_owned();
        while stands(&marker) {
            marker.push('\u{f8ff}');
        }
        marker
    }

    fn bad(&self, reason: &str) -> Error {
        Error::Template { name: self.template.name().to_owned(), reason: reason.to_owned() }
    }
}
