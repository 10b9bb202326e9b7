//! A text that is being generated.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use futures_core::Stream;
use mlx_llamba::{Cancel, Reason};
use mlx_llamba_engine::{Event, Events, wait};

use crate::error::Result;

/// The text that a token adds.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Piece {
    /// The text that the token completes; empty while a character or a possible stop string is
    /// unfinished.
    pub text: String,
    /// The token's id; `None` for text that was held back until the end.
    pub token: Option<u32>,
}

/// The end of a text.
#[derive(Debug, Clone, uniffi::Record)]
pub struct End {
    /// `stop` at the model's end or a stop string, `length` after the most tokens, or `cancelled`.
    pub reason: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that were not read again, as their state was kept.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}

/// A whole text.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Reply {
    /// The text.
    pub text: String,
    /// Its tokens' ids.
    pub tokens: Vec<u32>,
    /// Its end.
    pub end: End,
}

/// A text that is being generated, piece by piece. Dropping it ends the generation.
#[derive(Debug, uniffi::Object)]
pub struct TokenStream {
    reading: Mutex<Reading>,
    cancel: Cancel,
}

#[derive(Debug)]
struct Reading {
    events: Events,
    /// The counts so far. Its reason is empty before the end.
    end: End,
}

impl TokenStream {
    pub(crate) fn new(events: Events, cancel: Cancel) -> Arc<Self> {
        let end =
            End { reason: String::new(), prompt_tokens: 0, cached_tokens: 0, generated_tokens: 0 };
        Arc::new(Self { reading: Mutex::new(Reading { events, end }), cancel })
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[uniffi::export]
impl TokenStream {
    /// Waits for the next piece; `None` at the end.
    ///
    /// # Errors
    /// The computation's.
    pub async fn next(&self) -> Result<Option<Piece>> {
        // Held only while polling: another thread can cancel.
        poll_fn(|cx| {
            let mut reading = self.reading();
            loop {
                let event = ready!(Pin::new(&mut reading.events).poll_next(cx)).transpose()?;
                if let Some(piece) = event.map(|event| reading.note(event)) {
                    if piece.is_some() {
                        return Poll::Ready(Ok(piece));
                    }
                } else {
                    return Poll::Ready(Ok(None));
                }
            }
        })
        .await
    }

    /// As `next`, but blocks the thread.
    ///
    /// # Errors
    /// As `next`.
    pub fn wait_next(&self) -> Result<Option<Piece>> {
        wait(self.next())
    }

    /// Blocks the thread until the end, and returns what is left of the text.
    ///
    /// # Errors
    /// As `next`.
    pub fn finish(&self) -> Result<Reply> {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        while let Some(piece) = self.wait_next()? {
            text.push_str(&piece.text);
            tokens.extend(piece.token);
        }
        Ok(Reply { text, tokens, end: self.reading().end.clone() })
    }

    /// Ends the text after the next token, from any thread.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The end of the text; `None` before it is reached.
    pub fn end(&self) -> Option<End> {
        Some(self.reading().end.clone()).filter(|end| !end.reason.is_empty())
    }
}

impl Reading {
    fn note(&mut self, event: Event) -> Option<Piece> {
        match event {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                self.end.prompt_tokens = prompt_tokens as u64;
                self.end.cached_tokens = cached_tokens as u64;
                None
            }
            Event::Token { text, id, .. } => {
                self.end.generated_tokens += 1;
                Some(Piece { text, token: Some(id) })
            }
            Event::End { text, reason, .. } => {
                let reason = match reason {
                    Reason::Length => "length",
                    Reason::Cancelled => "cancelled",
                    _ => "stop",
                };
                reason.clone_into(&mut self.end.reason);
                (!text.is_empty()).then_some(Piece { text, token: None })
            }
            _ => None,
        }
    }
}
