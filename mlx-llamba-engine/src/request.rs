//! A request: a prompt, and how to continue it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mlx_llamba::{ChatOptions, Generation, Message};

/// The text that a request continues.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// A conversation; the model writes its next message.
    Chat {
        /// All messages so far.
        messages: Vec<Message>,
        /// Tools and other variables of the chat template.
        options: ChatOptions,
    },
    /// More messages of a session; the model writes the next one.
    Session {
        /// The session's id.
        id: String,
        /// Messages that are new.
        messages: Vec<Message>,
    },
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Self::Tokens(ids)
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::Chat { messages, options: ChatOptions::default() }
    }
}

/// A prompt, and how to continue it.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) prompt: Prompt,
    pub(crate) settings: Settings,
}

/// Everything of a request but its prompt.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) generation: Generation,
    pub(crate) choices: usize,
    pub(crate) client: String,
    pub(crate) user: String,
    pub(crate) cache_salt: String,
    pub(crate) shared_cache: bool,
    pub(crate) prompt_logprobs: bool,
    pub(crate) continue_last: bool,
    pub(crate) deadline: Option<Instant>,
    /// Dropped with the request.
    pub(crate) _held: Option<Held>,
}

/// A value that is kept for its owner.
#[derive(Clone)]
pub(crate) struct Held(Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.type_id()).finish()
    }
}

impl Request {
    /// One continuation of `prompt` with the default options, of 256 tokens at most.
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        let settings = Settings {
            generation: Generation::default(),
            choices: 1,
            client: String::new(),
            user: String::new(),
            cache_salt: String::new(),
            shared_cache: false,
            prompt_logprobs: false,
            continue_last: false,
            deadline: None,
            _held: None,
        };
        Self { prompt: prompt.into(), settings }
    }

    /// The reply to `text`, said by a user.
    pub fn ask(text: impl Into<String>) -> Self {
        Self::new(vec![Message::new("user", text)])
    }

    /// The reply to `text`, said by a user in a session.
    pub fn ask_session(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Prompt::Session { id: id.into(), messages: vec![Message::new("user", text)] })
    }

    /// Sets sampling, stop strings and the number of tokens. The engine chooses `prefill` and
    /// `pipelined` itself.
    #[must_use]
    pub fn generation(mut self, generation: Generation) -> Self {
        self.settings.generation = generation;
        self
    }

    /// Sets the maximum number of tokens.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.settings.generation.max_tokens = max_tokens;
        self
    }

    /// Sets the number of continuations. The prompt is read once. With a seed, choice `i` draws
    /// from `seed + i`.
    #[must_use]
    pub fn choices(mut self, choices: usize) -> Self {
        self.settings.choices = choices;
        self
    }

    /// Sets the client that the request counts for, by default the engine's tenant: clients take
    /// turns.
    #[must_use]
    pub fn client(mut self, client: impl Into<String>) -> Self {
        self.settings.client = client.into();
        self
    }

    /// Sets the user: the users of a client take turns within its turns.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.settings.user = user.into();
        self
    }

    /// Shares cached prefixes only with requests that have the same salt.
    #[must_use]
    pub fn cache_salt(mut self, salt: impl Into<String>) -> Self {
        self.settings.cache_salt = salt.into();
        self
    }

    /// Shares cached prefixes with other tenants, who then can learn what the prompts have in
    /// common with theirs from the number of cached tokens.
    #[must_use]
    pub fn shared_cache(mut self, shared: bool) -> Self {
        self.settings.shared_cache = shared;
        self
    }

    /// Reports log-probabilities of the prompt's tokens, all but the first.
    #[must_use]
    pub fn prompt_logprobs(mut self, wanted: bool) -> Self {
        self.settings.prompt_logprobs = wanted;
        self
    }

    /// Keeps a value until the request has ended, such as a permit for the memory that it takes.
    #[must_use]
    pub fn hold(mut self, value: Arc<dyn Any + Send + Sync>) -> Self {
        self.settings._held = Some(Held(value));
        self
    }

    /// Continues the last message of a conversation instead of replying to it.
    #[must_use]
    pub fn continue_last(mut self, wanted: bool) -> Self {
        self.settings.continue_last = wanted;
        self
    }

    /// Ends the request at `deadline` with [`Error::TimedOut`](crate::Error::TimedOut), instead
    /// of after the engine's request timeout.
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.settings.deadline = Some(deadline);
        self
    }
}
