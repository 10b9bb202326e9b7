//! Beginnings of texts.

use std::path::Path;

use mlx_llamba::files::json;
use mlx_llamba::{ChatOptions, Message, Template, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

use crate::data::{BOM, is_no_text, warn_of};
use crate::train::io;
use crate::{Error, Result};

/// The beginning of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its text.
    pub text: String,
    /// The tokens that the teacher reads.
    pub ids: Vec<u32>,
    /// True if the text continues as a message, whose end is part of it.
    pub chat: bool,
}

impl Prompt {
    /// Returns a beginning as it stands; special tokens spelled out in it are read as tokens.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn text(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(Self { text: text.to_owned(), ids: tokenizer.encode(text, false)?, chat: false })
    }

    /// Renders a conversation with the tokenizer's template, up to the assistant's answer.
    ///
    /// # Errors
    /// Those of the template.
    pub fn chat(messages: &[Message], tokenizer: &Tokenizer, template: &Template) -> Result<Self> {
        // The same text whenever it is made.
        let options = ChatOptions::default().now(0);
        let rendered = template.render(messages, true, &options)?;
        let ids = tokenizer.encode_rendered(&rendered)?;
        Ok(Self { text: rendered.text().to_owned(), ids, chat: true })
    }
}

/// Reads prompts. Each line of a `.jsonl` file is one, with the beginning of a text in its field
/// `field` or a conversation in `messages`; each line of any other file is the beginning of a text. Lines of
/// JSONL that are not valid Unicode are skipped, and a warning counts and names them.
///
/// # Errors
/// [`mlx_llamba::Error::Io`]; [`Error::Document`] names the line; [`Error::NoDocuments`] for an empty file.
pub fn prompts(path: &Path, field: &str, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
    let bytes = mlx_llamba::files::read(path).map_err(io("read", path))?;
    let bytes = bytes.strip_prefix(BOM.as_bytes()).unwrap_or(&bytes);
    let jsonl = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let mut template = None;
    let mut all = Vec::new();
    let mut skipped = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let bad = |reason| Error::Document { path: path.to_owned(), line: Some(number), reason };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let prompt = if jsonl {
            let value = match json::from_slice::<Value>(line) {
                Err(_) if is_no_text(line) => {
                    skipped.push(number);
                    continue;
                }
                value => value.map_err(|error| bad(format!("not JSON: {error}")))?,
            };
            match parse(&value, field).map_err(bad)? {
                Line::Text(text) => Prompt::text(&text, tokenizer)?,
                Line::Chat(messages) => {
                    let template = match &template {
                        Some(template) => template,
                        None => template.insert(Template::of(tokenizer, None)?),
                    };
                    Prompt::chat(&messages, tokenizer, template)?
                }
            }
        } else {
            let text = std::str::from_utf8(line);
            let text = text.map_err(|_| bad("no UTF-8: convert the file".to_owned()))?;
            Prompt::text(text, tokenizer)?
        };
        all.push(prompt);
    }
    warn_of(path, &skipped);
    if all.is_empty() {
        let reason = "every line is empty; each should be the beginning of a text";
        return Err(Error::NoDocuments { path: path.to_owned(), reason });
    }
    Ok(all)
}

enum Line {
    Text(String),
    Chat(Vec<Message>),
}

fn parse(value: &Value, field: &str) -> Result<Line, String> {
    match (&value[field], &value["messages"]) {
        (Value::String(text), _) => Ok(Line::Text(text.clone())),
        (Value::Null, Value::Null) => {
            Err(format!("it has no field {field:?}, and no \"messages\""))
        }
        (Value::Null, messages) => {
            let messages = Vec::<Message>::deserialize(messages);
            messages.map(Line::Chat).map_err(|error| format!("its \"messages\": {error}"))
        }
        _ => Err(format!("its field {field:?} is no text")),
    }
}
