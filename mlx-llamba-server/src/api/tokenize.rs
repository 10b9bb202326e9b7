//! `POST /v1/tokenize` and `/v1/detokenize`, as vLLM has them, and the count of a message's tokens.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use mlx_llamba_engine::{Prompt, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::TemplateFields;
use super::{App, Call};
use crate::problem::Problem;
use crate::request::body::{Body, Object, part};
use crate::request::messages::{ChatMessage, messages};
use crate::request::prompt::Ids;

/// The fields that do not go to the chat template.
#[derive(Debug, Deserialize, JsonSchema)]
struct Fields {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    prompt: Option<String>,
    /// Add the tokens around a text, such as that of its beginning.
    add_special_tokens: Option<bool>,
    #[schemars(length(min = 1))]
    messages: Option<Vec<ChatMessage>>,
    /// Return the tokens as text too.
    return_token_strs: Option<bool>,
}

/// A text, or a conversation, of which the tokens are wanted.
#[derive(Debug, JsonSchema)]
#[schemars(extend("oneOf" = [
    { "required": ["prompt"], "properties": { "prompt": { "type": "string" }, "messages": { "type": "null" } } },
    { "required": ["messages"], "properties": { "messages": { "type": "array" }, "prompt": { "type": "null" } } },
]))]
pub(crate) struct TokenizeRequest {
    #[serde(flatten)]
    asked: Fields,
    #[serde(flatten)]
    template: TemplateFields,
}

/// Tokens of which the text is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DetokenizeRequest {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    #[schemars(with = "Vec<u32>")]
    tokens: Ids,
}

/// The tokens of a text.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tokens {
    tokens: Vec<u32>,
    count: usize,
    /// The most tokens that a prompt may have.
    max_model_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

/// The text of tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Detokenized {
    prompt: String,
}

impl Body for TokenizeRequest {
    const FREE: &'static [&'static str] = &["chat_template_kwargs", "messages", "model", "tools"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        Ok(Self { asked: part(object)?, template: part(object)? })
    }

    fn model(&self) -> Option<&str> {
        self.asked.model.as_deref()
    }
}

impl Body for DetokenizeRequest {
    const FREE: &'static [&'static str] = &["model"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        part(object)
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// `POST /v1/tokenize`
pub(crate) async fn tokenize(
    app: Arc<App>,
    call: Call<TokenizeRequest>,
) -> Result<Response, Problem> {
    let TokenizeRequest { asked, template } = call.body;
    let special = asked.add_special_tokens.unwrap_or(true);
    let tokens = match (asked.prompt, asked.messages) {
        (Some(text), None) => app.engine.encode(text, special).await?,
        (None, Some(given)) => {
            let options = template.options(app.engine.template())?;
            let prompt = Prompt::Chat { messages: messages(given), options };
            let in_messages = |error| Problem::of(error, "messages");
            let prepared = app.engine.prepare(vec![Request::new(prompt)]).await;
            let prepared = prepared.map_err(in_messages)?;
            prepared.first().map(|request| request.tokens().to_vec()).unwrap_or_default()
        }
        _ => return Err(Problem::parameter("prompt", "either a prompt or messages")),
    };
    let tokenizer = app.engine.tokenizer();
    let spelled = |id: &u32| String::from_utf8_lossy(&tokenizer.bytes(*id)).into_owned();
    let strings = asked.return_token_strs.unwrap_or(false);
    let token_strs = strings.then(|| tokens.iter().map(spelled).collect());
    let (count, max_model_len) = (tokens.len(), app.options.engine.prompt_tokens);
    Ok(Json(Tokens { tokens, count, max_model_len, token_strs }).into_response())
}

/// `POST /v1/detokenize`
pub(crate) async fn detokenize(
    app: Arc<App>,
    call: Call<DetokenizeRequest>,
) -> Result<Response, Problem> {
    let prompt = app.engine.decode(call.body.tokens.0).await?;
    Ok(Json(Detokenized { prompt }).into_response())
}
