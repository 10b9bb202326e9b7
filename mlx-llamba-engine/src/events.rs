//! The events of requests, as a stream, one by one, or collected.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use mlx_llamba::Reason;
use mlx_llamba::decode::generation::TokenLogprobs;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::error::{Error, Result};
use crate::wait::wait;

/// Progress of a request.
///
/// Requests that were submitted together share one stream; `request` is the index among them.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum Event {
    /// The request leaves the queue.
    Started {
        /// The request.
        request: usize,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the prompt that are not read again, as their state was kept.
        cached_tokens: usize,
    },
    /// A chunk of the prompt was read.
    Prefill {
        /// The request.
        request: usize,
        /// Log-probabilities of the prompt's next tokens, if asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// A token was generated.
    Token {
        /// The request.
        request: usize,
        /// Its continuation, from 0.
        choice: usize,
        /// The text that the token completes; empty while a character or a possible stop string
        /// is unfinished.
        text: String,
        /// The token's id.
        id: u32,
        /// The token's log-probabilities, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// A continuation ended.
    End {
        /// The request.
        request: usize,
        /// Its continuation, from 0.
        choice: usize,
        /// Text held back until now.
        text: String,
        /// Why the continuation ended.
        reason: Reason,
    },
}

impl Event {
    /// The text that the event adds to its continuation.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Token { text, .. } | Self::End { text, .. } => text,
            _ => "",
        }
    }
}

/// The events of requests that were submitted together.
///
/// Ends after the last continuation's [`Event::End`], or after an error. Dropping it cancels the
/// requests.
#[derive(Debug)]
pub struct Events {
    receiver: UnboundedReceiver<Result<Event>>,
    /// Continuations of each request.
    choices: Vec<usize>,
    /// Continuations that have not ended.
    open: usize,
}

impl Events {
    pub(crate) fn new(receiver: UnboundedReceiver<Result<Event>>, choices: Vec<usize>) -> Self {
        let open = choices.iter().sum();
        Self { receiver, choices, open }
    }

    /// Waits for the next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The events as an iterator that blocks its thread. Not for async code.
    pub fn blocking(mut self) -> impl Iterator<Item = Result<Event>> {
        std::iter::from_fn(move || wait(self.next()))
    }

    /// Waits for the end and returns everything.
    ///
    /// # Errors
    /// The first error among the events.
    pub async fn finish(mut self) -> Result<Output> {
        let offsets = self.choices.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum - n)
        });
        let offset: Vec<usize> = offsets.collect();
        let mut output = Output::new(self.open);
        while let Some(event) = self.next().await {
            output.add(event?, &offset);
        }
        Ok(output)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        if self.open == 0 {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.receiver.poll_recv(cx)).unwrap_or(Err(Error::Ended));
        match &event {
            Ok(Event::End { .. }) => self.open -= 1,
            Ok(_) => {}
            Err(_) => self.open = 0,
        }
        Poll::Ready(Some(event))
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}

/// Everything that requests generated.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Output {
    /// The continuations: those of the first request, then those of the second, and so on.
    pub choices: Vec<Choice>,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens of the prompts that were not read again, as their state was kept.
    pub cached_tokens: usize,
}

/// One continuation.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// The tokens' ids.
    pub tokens: Vec<u32>,
    /// Log-probabilities of the tokens, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why the continuation ended.
    pub reason: Reason,
}

impl Output {
    fn new(choices: usize) -> Self {
        let empty = Choice {
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            reason: Reason::Cancelled,
        };
        Self { choices: vec![empty; choices], prompt_tokens: 0, cached_tokens: 0 }
    }

    fn add(&mut self, event: Event, offset: &[usize]) {
        match event {
            Event::Started { prompt_tokens, cached_tokens, .. } => {
                self.prompt_tokens += prompt_tokens;
                self.cached_tokens += cached_tokens;
            }
            Event::Prefill { .. } => {}
            Event::Token { request, choice, text, id, logprobs } => {
                let choice = &mut self.choices[offset[request] + choice];
                choice.text.push_str(&text);
                choice.tokens.push(id);
                choice.logprobs.extend(logprobs);
            }
            Event::End { request, choice, text, reason } => {
                let choice = &mut self.choices[offset[request] + choice];
                choice.text.push_str(&text);
                choice.reason = reason;
            }
        }
    }

    /// The text of the first continuation.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.choices[0].text
    }
}
