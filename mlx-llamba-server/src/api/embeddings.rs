//! `POST /v1/embeddings`

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{App, Call, Client};
use crate::problem::Problem;
use crate::request::body::{Body, Object, part};
use crate::request::prompt::Prompt;

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian float32.
    Base64,
}

/// A request for embeddings: means of the model's final hidden states, of unit length. The model was
/// not trained for them.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct EmbeddingRequest {
    /// The model. There is one, which answers to any name unless the server is strict.
    model: Option<String>,
    input: Prompt,
    encoding_format: Option<Encoding>,
}

/// Numbers, or their base64.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

/// The embedding of a text.
#[derive(Debug, Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// Tokens that were read.
#[derive(Debug, Serialize, JsonSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// The embeddings of texts, in their order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Embeddings {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

impl Body for EmbeddingRequest {
    const FREE: &'static [&'static str] = &["model"];

    fn read(object: &Object<'_>) -> Result<Self, Problem> {
        part(object)
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// `POST /v1/embeddings`
pub(crate) async fn create(
    app: Arc<App>,
    call: Call<EmbeddingRequest>,
) -> Result<Response, Problem> {
    let in_input = |error| Problem::of(error, "input");
    let EmbeddingRequest { input, encoding_format, .. } = call.body;
    let mut texts = Vec::new();
    let ids = match input {
        Prompt::Text(text) => {
            texts.push(text);
            Vec::new()
        }
        Prompt::Texts(all) => {
            texts = all;
            Vec::new()
        }
        Prompt::Tokens(ids) => vec![ids],
        Prompt::TokenLists(lists) => lists,
    };
    let (count, most) = (texts.len() + ids.len(), app.options.limits.choices);
    if count == 0 || count > most {
        return Err(Problem::parameter("input", format!("{count} texts, not 1 to {most}")));
    }
    let mut all = ids;
    for text in texts {
        all.push(app.engine.encode(text, true).await.map_err(in_input)?);
    }
    let tokens = all.iter().map(Vec::len).sum();
    let Client { engine, name, .. } = call.client;
    let vectors = engine.embed(&name, all).await.map_err(in_input)?;
    let format = |vector: Vec<f32>| match encoding_format.unwrap_or_default() {
        Encoding::Float => Vector::Float(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    };
    let item =
        |(index, vector)| Embedding { object: "embedding", index, embedding: format(vector) };
    Ok(Json(Embeddings {
        object: "list",
        data: vectors.into_iter().enumerate().map(item).collect(),
        model: app.options.model.clone(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    })
    .into_response())
}
