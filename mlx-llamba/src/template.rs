//! Chat templates: from messages to the text that a model was trained to continue.
//!
//! Templates are jinja2 programs that come with tokenizers. They run here as `transformers` runs
//! them, with a bound on the work and memory they may take.

mod builtin;
mod environment;
mod guard;
mod json;
mod rendered;
mod scan;
mod source;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::tokenizer::Tokenizer;
use guard::Guard;
pub use json::Json;
pub use rendered::Rendered;
pub(crate) use source::Sources;

/// What a template may spend on any conversation, and for each byte of it: steps, or 64 bytes of
/// memory.
const FUEL: u64 = 1_000_000;
const FUEL_A_BYTE: u64 = 4;
/// Bytes that a message counts for beside its text.
const OVERHEAD: usize = 512;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or whatever else the template knows.
    pub role: String,
    /// Its text.
    #[serde(default)]
    pub content: String,
    /// What else the template is to see of it: `name`, `tool_calls`, `tool_call_id`.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Json>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: BTreeMap::new() }
    }
}

/// What a template sees beside the messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatOptions {
    /// `tools`: a list of JSON schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Json>,
    /// `documents`: a list of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Json>,
    /// Variables that this template knows, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Json>,
    /// What `strftime_now` takes for now, in seconds since 1970. A conversation keeps its own:
    /// else its text would change over night.
    pub now: i64,
}

impl Default for ChatOptions {
    /// Nothing, and the time of this moment.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64);
        Self { tools: None, documents: None, variables: BTreeMap::new(), now }
    }
}

/// A compiled chat template. A clone shares everything.
#[derive(Debug, Clone)]
pub struct Template(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    name: String,
    source: String,
    special: Vec<(String, String)>,
    /// Whose special tokens messages may not write.
    tokenizer: Option<Tokenizer>,
    env: Environment<'static>,
}

impl Template {
    /// Names of the templates that this library carries: `chatml`, `llama-3`, `plain` (the texts
    /// of all messages, one after the other, for models that were never taught to chat).
    pub const BUILTIN: [&'static str; 3] = builtin::NAMES;

    /// The template that comes with `tokenizer`: the one called `name` where it has several, else
    /// its default one.
    ///
    /// # Errors
    /// [`Error::TemplateMissing`], [`Error::Template`] if it does not compile.
    pub fn of(tokenizer: &Tokenizer, name: Option<&str>) -> Result<Self> {
        let path = tokenizer.path().display().to_string();
        let sources = tokenizer
            .templates()
            .map_err(|reason| Error::Template { name: path.clone(), reason: reason.to_owned() })?;
        let wanted = name.unwrap_or(source::DEFAULT);
        let Some(text) = sources.get(wanted) else {
            let there: Vec<String> =
                sources.templates.iter().map(|(name, _)| printable(name)).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Error::TemplateMissing { tokenizer: path, name: wanted.into(), there });
        };
        Self::new(&format!("{wanted} of {path}"), text, tokenizer)
    }

    /// One of [`BUILTIN`](Self::BUILTIN), or nothing if it is none of them.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn builtin(name: &str, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        builtin::source(name).map(|source| Self::new(name, source, tokenizer)).transpose()
    }

    /// Compiles `source`; `name` is what errors call it. The tokenizer's special tokens become
    /// variables: `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that does not compile.
    pub fn new(name: &str, source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let mut special = tokenizer.templates().map_or(Vec::new(), |found| found.special.clone());
        if !special.iter().any(|(key, _)| key == "bos_token") {
            let bos = tokenizer.bos_id().and_then(|id| tokenizer.token(id));
            special.extend(bos.map(|text| ("bos_token".to_owned(), text)));
        }
        Self::compile(name, source, special, Some(tokenizer.clone()))
    }

    fn compile(
        name: &str,
        source: &str,
        special: Vec<(String, String)>,
        tokenizer: Option<Tokenizer>,
    ) -> Result<Self> {
        let env = environment::compile(source).map_err(|e| failed(name, &e))?;
        let (name, source) = (name.to_owned(), source.to_owned());
        Ok(Self(Arc::new(Compiled { name, source, special, tokenizer, env })))
    }

    /// The program.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text of a conversation; with `reply`, up to where the assistant is to go on.
    ///
    /// Special tokens that are spelled out in a message, or in what else the template is given,
    /// stay text when it is encoded with
    /// [`Tokenizer::encode_rendered`](crate::Tokenizer::encode_rendered): nobody ends a message,
    /// or writes one of another role, by spelling the tokens for it.
    ///
    /// # Errors
    /// [`Error::Template`] with the template's own complaint, or if it takes too much work.
    pub fn render(
        &self,
        messages: &[Message],
        reply: bool,
        options: &ChatOptions,
    ) -> Result<Rendered> {
        let messages: Vec<&Message> = messages.iter().collect();
        self.render_refs(&messages, reply, options)
    }

    pub(crate) fn render_refs(
        &self,
        messages: &[&Message],
        reply: bool,
        options: &ChatOptions,
    ) -> Result<Rendered> {
        let bad = |e: &minijinja::Error| failed(&self.0.name, e);
        let mut env = self.0.env.clone();
        let now = Timestamp::from_second(options.now).map_err(|e| Error::Option {
            option: "now",
            value: options.now.to_string(),
            expected: e.to_string(),
        })?;
        environment::set_clock(&mut env, now.to_zoned_datetime(TimeZone::system()));
        let bytes: usize = messages.iter().map(|m| m.content.len() + m.role.len() + OVERHEAD).sum();
        env.set_fuel(Some(FUEL + FUEL_A_BYTE * bytes as u64));

        let list = |value: &Option<Json>| value.as_ref().map_or(Value::from(()), |v| v.0.clone());
        let (names, mut input): (Vec<&str>, Vec<Value>) =
            options.variables.iter().map(|(key, value)| (key.as_str(), value.0.clone())).unzip();
        input.push(messages.iter().map(|m| value(m)).collect());
        input.extend([list(&options.tools), list(&options.documents)]);
        let guard = Guard::new(self.0.tokenizer.as_ref(), &self.0.source, &input);
        let names = names.into_iter().chain(["messages", "tools", "documents"]);
        let given = names.zip(input.iter().map(|value| guard.marked(value)));
        let special = self.0.special.iter().map(|(key, text)| (key.as_str(), Value::from(text)));
        let reply = [("add_generation_prompt", Value::from(reply))];
        let context = Value::from_pairs(special.chain(given).chain(reply));
        let template = env.get_template(environment::NAME).map_err(|e| bad(&e))?;
        let text = template.render(context).map_err(|e| bad(&e))?;
        Ok(match guard.mark() {
            Some(mark) => Rendered::without(mark, &text),
            None => Rendered::plain(text),
        })
    }
}

/// A message as the template sees it.
fn value(message: &Message) -> Value {
    let fields = message.fields.iter().map(|(key, value)| (key.clone(), value.0.clone()));
    let texts = [("role", &message.role), ("content", &message.content)];
    let texts = texts.map(|(key, text)| (key.to_owned(), Value::from(text)));
    Value::from_pairs(texts.into_iter().chain(fields))
}

fn failed(name: &str, error: &minijinja::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too much work or memory".to_owned(),
        _ => error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned),
    };
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    Error::Template { name: name.to_owned(), reason: printable(&reason) + &line }
}
