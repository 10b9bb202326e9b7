//! Calls and text, out of a reply that grows.

use super::{Tool, ToolCall, ToolFormat, parse};

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text for the user.
    Text(String),
    /// A whole call.
    Call(ToolCall),
}

/// Finds the calls in a reply.
///
/// Text is handed out as it comes, except what may begin a call. Blanks before and after calls are
/// left out. What looks like a call but is none is text.
#[derive(Debug, Clone)]
pub struct CallParser {
    format: ToolFormat,
    tools: Vec<Tool>,
    pending: String,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks yet.
    Start,
    Text,
    /// After the mark that begins a call.
    Call,
    /// The whole reply is made of calls, or of none.
    Whole,
}

impl CallParser {
    /// A parser for one reply of a model with these tools.
    #[must_use]
    pub fn new(format: ToolFormat, tools: Vec<Tool>) -> Self {
        Self { format, tools, pending: String::new(), state: State::Start }
    }

    /// Adds text of the reply; returns what it completes.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.pending.push_str(text);
        let mut pieces = Vec::new();
        if self.state == State::Start {
            self.state = match (self.pending.trim_start().chars().next(), self.format) {
                (None, _) => return pieces,
                (Some('{'), ToolFormat::Json) | (Some('['), ToolFormat::Pythonic) => State::Whole,
                _ => State::Text,
            };
        }
        while self.advance(&mut pieces) {}
        pieces
    }

    /// Ends the reply.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.pending);
        let calls = match (self.state, self.format) {
            (State::Whole, ToolFormat::Json) => parse::json_calls(&rest, &self.tools),
            (State::Whole, _) => parse::python_calls(&rest, &self.tools),
            (State::Call, ToolFormat::Mistral | ToolFormat::MistralArgs) => parse::mistral(&rest),
            _ => None,
        };
        if let Some(calls) = calls {
            return calls.into_iter().map(Piece::Call).collect();
        }
        // A call that was cut short is shown as it is.
        let begun = if self.state == State::Call { self.format.marks()[0] } else { "" };
        let text = format!("{begun}{rest}");
        if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] }
    }

    /// Takes a piece out of the pending text. Returns false if nothing more can be taken.
    fn advance(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let marks = self.format.marks();
        match (self.state, marks) {
            (State::Text, [begin, ..]) => {
                if let Some(at) = self.pending.find(begin) {
                    let rest = self.pending.split_off(at + begin.len());
                    let text = std::mem::replace(&mut self.pending, rest);
                    add(pieces, text[..at].trim_end());
                    self.state = State::Call;
                    return true;
                }
                // A mark may have begun, and blanks may stand before it.
                let begun = (1..begin.len()).rev().find(|&n| self.pending.ends_with(&begin[..n]));
                let safe = self.pending[..self.pending.len() - begun.unwrap_or(0)].trim_end().len();
                let rest = self.pending.split_off(safe);
                add(pieces, &std::mem::replace(&mut self.pending, rest));
                false
            }
            (State::Text, []) => {
                add(pieces, &std::mem::take(&mut self.pending));
                false
            }
            (State::Call, [begin, end])
                if matches!(self.format, ToolFormat::Hermes | ToolFormat::QwenXml) =>
            {
                let Some(at) = self.pending.find(end) else { return false };
                let rest = self.pending.split_off(at + end.len());
                let inner = std::mem::replace(&mut self.pending, rest);
                match parse::tagged(&inner[..at], &self.tools) {
                    Some(call) => pieces.push(Piece::Call(call)),
                    None => add(pieces, &format!("{begin}{inner}")),
                }
                self.state = State::Text;
                true
            }
            _ => false,
        }
    }
}

fn add(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}
