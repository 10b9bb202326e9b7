//! Chat templates: they make the text that a model was trained to continue from messages.
//!
//! Templates are jinja2 programs that come with tokenizers. They run as in `transformers`, within
//! bounds of work and memory.

mod builtin;
mod environment;
mod guard;
mod json;
mod python;
mod scan;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use derive_setters::Setters;
use jiff::{Timestamp, tz::TimeZone};
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::tokenizer::{DEFAULT, Rendered, Tokenizer};
use guard::Guard;
pub use json::Json;

/// The name of a template for conversations with tools.
const TOOLS: &str = "tool_use";
/// The fuel of a rendering, and what each byte of the conversation adds to it. A unit pays for a
/// step, or for 64 bytes of memory.
const FUEL: u64 = 1_000_000;
const FUEL_PER_BYTE: u64 = 4;
/// Bytes of text that a rendering may make, and those that each byte of the conversation adds.
const OUTPUT: usize = 16 << 20;
const OUTPUT_PER_BYTE: usize = 16;
/// Bytes that a message counts for in addition to its text.
const OVERHEAD: usize = 512;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or another role that the template knows.
    pub role: String,
    /// The text.
    #[serde(default)]
    pub content: String,
    /// Further fields for the template: `name`, `tool_calls`, `tool_call_id`.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Json>,
}

impl Message {
    /// A message without further fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: BTreeMap::new() }
    }
}

/// Values for a template beside the messages.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Setters)]
#[setters(strip_option)]
pub struct ChatOptions {
    /// `tools`: a list of JSON schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Json>,
    /// `documents`: a list of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Json>,
    /// Further variables, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Json>,
    /// The time for `strftime_now`, in seconds since 1970. A conversation keeps its own, so that its
    /// text does not change overnight.
    pub now: i64,
}

impl Default for ChatOptions {
    /// No values, and the current time.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64);
        Self { tools: None, documents: None, variables: BTreeMap::new(), now }
    }
}

/// A compiled chat template. A clone shares everything.
#[derive(Debug, Clone)]
pub struct Template(Arc<Compiled>);

#[derive(Debug, Clone)]
struct Compiled {
    name: String,
    source: String,
    special: Vec<(String, String)>,
    /// The tokenizer whose special tokens messages cannot write.
    tokenizer: Option<Tokenizer>,
    env: Environment<'static>,
    /// The template to use if there are tools.
    tools: Option<Template>,
}

impl Template {
    /// The names of the built-in templates: `chatml`, `llama-3`, and `plain`, which joins the texts
    /// of all messages, for models without chat training.
    pub const BUILTIN: [&'static str; 3] = builtin::NAMES;

    /// The template called `name` of a tokenizer. Without a name it is the default one, and the one
    /// called `tool_use`, if there is one, for conversations with tools.
    ///
    /// # Errors
    /// [`Error::TemplateMissing`]; [`Error::Template`] if it does not compile.
    pub fn of(tokenizer: &Tokenizer, name: Option<&str>) -> Result<Self> {
        let path = tokenizer.path().display().to_string();
        let sources = tokenizer
            .templates()
            .map_err(|reason| Error::Template { name: path.clone(), reason: reason.to_owned() })?;
        let wanted = name.unwrap_or(DEFAULT);
        let Some(text) = sources.get(wanted) else {
            let there: Vec<String> =
                sources.templates.iter().map(|(name, _)| printable(name)).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Error::TemplateMissing { tokenizer: path, name: wanted.into(), there });
        };
        let named = |name: &str, text| Self::new(&format!("{name} of {path}"), text, tokenizer);
        let template = named(wanted, text)?;
        let Some(tools) = sources.get(TOOLS).filter(|_| name.is_none()) else {
            return Ok(template);
        };
        let mut compiled = Arc::unwrap_or_clone(template.0);
        compiled.tools = Some(named(TOOLS, tools)?);
        Ok(Self(Arc::new(compiled)))
    }

    /// The built-in template called `name`; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn builtin(name: &str, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        builtin::source(name).map(|source| Self::new(name, source, tokenizer)).transpose()
    }

    /// Compiles `source`; errors call it `name`. The tokenizer's special tokens become
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
        Ok(Self(Arc::new(Compiled { name, source, special, tokenizer, env, tools: None })))
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The text of the template for conversations with tools.
    pub(crate) fn source_with_tools(&self) -> &str {
        self.0.tools.as_ref().map_or(&self.0.source, |template| &template.0.source)
    }

    /// The name in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// True if the template has a place for tools.
    #[must_use]
    pub fn takes_tools(&self) -> bool {
        self.0.tools.is_some() || self.0.source.contains("tools")
    }

    /// Renders a conversation of one short message, so that a hostile template is found before requests come.
    ///
    /// # Errors
    /// [`Error::Template`] if it takes too much work or writes too much. Other complaints may be about that
    /// conversation, and are no errors here.
    pub fn try_out(&self) -> Result<()> {
        match self.render(&[Message::new("user", "Hello.")], true, &ChatOptions::default()) {
            Err(Error::Template { name, reason })
                if reason.starts_with(TOO_MUCH) || reason.starts_with(TOO_LONG) =>
            {
                Err(Error::Template { name, reason })
            }
            _ => Ok(()),
        }
    }

    /// Renders a conversation; with `reply`, up to where the assistant continues.
    ///
    /// Special tokens that are spelled out in a message, or in another value that the template is
    /// given, are read as text by
    /// [`Tokenizer::encode_rendered`](crate::Tokenizer::encode_rendered): a message cannot end
    /// itself, or begin one of another role, by spelling the tokens for that.
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

    /// Renders a conversation up to the end of the last message's content, which a reply continues.
    /// A message without content is rendered whole.
    ///
    /// # Errors
    /// [`Error::Template`] as for [`render`](Self::render), or if the content is not in the text.
    pub fn render_open(&self, messages: &[Message], options: &ChatOptions) -> Result<Rendered> {
        let rendered = self.render(messages, false, options)?;
        let content = messages.last().map_or("", |message| message.content.trim());
        if content.is_empty() {
            return Ok(rendered);
        }
        let Some(start) = rendered.text().rfind(content) else {
            let reason = "it does not show the last message, which cannot be continued".to_owned();
            return Err(Error::Template { name: self.0.name.clone(), reason });
        };
        // Blanks at the end are the message's own, where the template leaves them.
        let given = messages.last().map_or("", |message| message.content.trim_start());
        let end = if rendered.text()[start..].starts_with(given) { given } else { content };
        Ok(rendered.part(0, start + end.len()))
    }

    pub(crate) fn render_refs(
        &self,
        messages: &[&Message],
        reply: bool,
        options: &ChatOptions,
    ) -> Result<Rendered> {
        let tools = options.tools.as_ref().filter(|tools| !tools.is_empty());
        if let (Some(template), Some(_)) = (&self.0.tools, tools) {
            return template.render_refs(messages, reply, options);
        }
        let bad = |e: &minijinja::Error| failed(&self.0.name, e);
        let mut env = self.0.env.clone();
        let now = Timestamp::from_second(options.now).map_err(|e| Error::Argument {
            name: "now",
            value: options.now.to_string(),
            expected: e.to_string(),
        })?;
        environment::set_clock(&mut env, now.to_zoned_datetime(TimeZone::system()));
        let bytes: usize = messages.iter().map(|m| m.content.len() + m.role.len() + OVERHEAD).sum();
        env.set_fuel(Some(FUEL + FUEL_PER_BYTE * bytes as u64));

        let list = |value: Option<&Json>| value.map_or(Value::from(()), |v| v.0.clone());
        let (names, mut input): (Vec<&str>, Vec<Value>) =
            options.variables.iter().map(|(key, value)| (key.as_str(), value.0.clone())).unzip();
        input.push(messages.iter().map(|m| value(m)).collect());
        input.extend([list(tools), list(options.documents.as_ref())]);
        let guard = Guard::new(self.0.tokenizer.as_ref(), &self.0.source, &input);
        let names = names.into_iter().chain(["messages", "tools", "documents"]);
        let given = names.zip(input.iter().map(|value| guard.marked(value)));
        let special = self.0.special.iter().map(|(key, text)| (key.as_str(), Value::from(text)));
        let reply = [("add_generation_prompt", Value::from(reply))];
        let context = Value::from_pairs(special.chain(given).chain(reply));
        let template = env.get_template(environment::NAME).map_err(|e| bad(&e))?;
        let mut out = Bounded { bytes: Vec::new(), most: OUTPUT + OUTPUT_PER_BYTE * bytes };
        let result = template.render_captured_to(context, &mut out).map(drop);
        if let Err(error) = result {
            return Err(match error.kind() {
                ErrorKind::WriteFailure => Error::Template {
                    name: self.0.name.clone(),
                    reason: format!("{TOO_LONG} {} bytes", out.most),
                },
                _ => bad(&error),
            });
        }
        let text = String::from_utf8_lossy(&out.bytes).into_owned();
        Ok(match guard.mark() {
            Some(mark) => Rendered::without(mark, &text),
            None => Rendered::plain(text),
        })
    }
}

/// The complaints about templates that cost too much.
const TOO_MUCH: &str = "it takes too much work or memory";
const TOO_LONG: &str = "its text is longer than";

/// A text that is not longer than `most` bytes.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message as the template gets it. No tool calls are the same as an empty list of them.
fn value(message: &Message) -> Value {
    let fields = message.fields.iter();
    let fields = fields.filter(|(key, value)| *key != "tool_calls" || !value.is_empty());
    let fields = fields.map(|(key, value)| (key.clone(), value.0.clone()));
    let texts = [("role", &message.role), ("content", &message.content)];
    let texts = texts.map(|(key, text)| (key.to_owned(), Value::from(text)));
    Value::from_pairs(texts.into_iter().chain(fields))
}

fn failed(name: &str, error: &minijinja::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => TOO_MUCH.to_owned(),
        _ => error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned),
    };
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    Error::Template { name: name.to_owned(), reason: printable(&reason) + &line }
}
