//! A loaded model.

use std::sync::Arc;

use mlx_llamba::Message as Said;
use mlx_llamba_engine::{Engine, Loaded, Prompt, Request, wait};

use crate::chat::{Chat, Message};
use crate::error::{LlambaError, Result};
use crate::options::{GenerationOptions, LoadOptions};
use crate::stream::{Reply, TokenStream};

/// A model. All its functions can be called from any thread; texts are generated together.
#[derive(Debug, uniffi::Object)]
pub struct Llamba {
    pub(crate) engine: Engine,
}

#[uniffi::export]
impl Llamba {
    /// Loads a model, a directory, a `.safetensors` file or a hub repository (`owner/name`); `None` for
    /// the built-in one. Blocks the thread.
    ///
    /// # Errors
    /// `Load`.
    #[uniffi::constructor(default(model = None, options = None))]
    pub fn new(model: Option<String>, options: Option<LoadOptions>) -> Result<Arc<Self>> {
        let options = options.unwrap_or_default();
        let engine = options.engine();
        let load = move || {
            let builder = match model {
                Some(name) => mlx_llamba::Llamba::builder(name),
                None => mlx_llamba::Llamba::embedded(),
            };
            let builder = builder.hub(options.hub()?);
            let builder = match &options.tokenizer {
                Some(tokenizer) => builder.tokenizer(tokenizer),
                None => builder,
            };
            Loaded::new(builder.load()?)
        };
        Ok(Arc::new(Self { engine: Engine::start_blocking(load, engine)? }))
    }

    /// Continues a text, and blocks the thread until its end.
    ///
    /// # Errors
    /// `Argument`, `Busy`, `Closed` or `Failed`.
    #[uniffi::method(default(options = None))]
    pub fn generate(&self, prompt: String, options: Option<GenerationOptions>) -> Result<Reply> {
        self.stream(prompt, options)?.finish()
    }

    /// Continues a text, piece by piece.
    ///
    /// # Errors
    /// As `generate`.
    #[uniffi::method(default(options = None))]
    pub fn stream(
        &self,
        prompt: String,
        options: Option<GenerationOptions>,
    ) -> Result<Arc<TokenStream>> {
        self.start(prompt, options)
    }

    /// Writes the next message of a conversation that the caller keeps.
    ///
    /// # Errors
    /// As `generate`, and `Conversation` without a chat template.
    #[uniffi::method(default(options = None))]
    pub fn answer(
        &self,
        messages: Vec<Message>,
        options: Option<GenerationOptions>,
    ) -> Result<Arc<TokenStream>> {
        let messages: Vec<Said> = messages.into_iter().map(Said::from).collect();
        self.start(messages, options)
    }

    /// Begins a conversation that reads each message once.
    ///
    /// # Errors
    /// `Conversation` without a chat template, `Busy` or `Closed`.
    #[uniffi::method(default(system = None))]
    pub fn chat(&self, system: Option<String>) -> Result<Arc<Chat>> {
        let messages = system.map(|text| Said::new("system", text)).into_iter().collect();
        let session = wait(self.engine.create_session(messages, Default::default()))?;
        Ok(Chat::new(self.engine.clone(), session))
    }

    /// Continues a conversation that `Chat.save` or `mlx-llamba chat --session` saved.
    ///
    /// # Errors
    /// `File`, `Conversation`, `Busy` or `Closed`.
    pub fn load_chat(&self, path: String) -> Result<Arc<Chat>> {
        let limit = self.engine.session_bytes() as u64;
        let file = std::fs::metadata(&path).map_err(|error| LlambaError::file(&path, error))?;
        if !file.is_file() || file.len() > limit {
            let what = format!("expected a regular file of at most {limit} bytes");
            return Err(LlambaError::file(&path, what));
        }
        let bytes = std::fs::read(&path).map_err(|error| LlambaError::file(&path, error))?;
        let session = wait(self.engine.import_session(bytes, "the saved conversation"))?;
        Ok(Chat::new(self.engine.clone(), session))
    }

    /// The vector of a text, of length 1: texts of like meaning have like vectors.
    ///
    /// # Errors
    /// `Argument`, `Closed` or `Failed`.
    pub fn embed(&self, text: String) -> Result<Vec<f32>> {
        let vectors = wait(async {
            let ids = self.engine.encode(text, true).await?;
            self.engine.embed("", vec![ids]).await
        })?;
        Ok(vectors.into_iter().next().unwrap_or_default())
    }

    /// The ids of a text's tokens, without those that stand around a text.
    ///
    /// # Errors
    /// `Argument`.
    pub fn encode(&self, text: String) -> Result<Vec<u32>> {
        Ok(wait(self.engine.encode(text, false))?)
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// `Argument`.
    pub fn decode(&self, tokens: Vec<u32>) -> Result<String> {
        Ok(wait(self.engine.decode(tokens))?)
    }

    /// Ends all generations and unloads the model; blocks the thread until that is done.
    pub fn close(&self) {
        self.engine.shutdown();
    }
}

impl Llamba {
    fn start(
        &self,
        prompt: impl Into<Prompt>,
        options: Option<GenerationOptions>,
    ) -> Result<Arc<TokenStream>> {
        start(&self.engine, prompt.into(), options.unwrap_or_default())
    }
}

/// Queues a request.
pub(crate) fn start(
    engine: &Engine,
    prompt: Prompt,
    options: GenerationOptions,
) -> Result<Arc<TokenStream>> {
    let generation = options.over(engine.tokenizer());
    let cancel = generation.cancel.clone();
    let events = wait(engine.submit(Request::new(prompt).generation(generation)))?;
    Ok(TokenStream::new(events, cancel))
}
