//! Calls of tools in a model's replies.
//!
//! A chat template tells the model about its tools and the form in which to call them. [`ToolFormat`]
//! is that form, as the template shows it; [`CallParser`] finds the calls in a reply while it is
//! generated.

#[cfg(feature = "constraints")]
mod grammar;
mod parse;
mod parser;
mod python;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use parser::{CallParser, Piece};

use crate::template::Template;

/// A tool that a model can call.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments, an object.
    pub parameters: Value,
}

impl Tool {
    /// A tool without a description; `None` for `parameters` means that it takes none.
    pub fn new(name: impl Into<String>, parameters: Option<Value>) -> Self {
        let none = || serde_json::json!({"type": "object", "properties": {}, "additionalProperties": false});
        let parameters = parameters.filter(|schema| !schema.is_null()).unwrap_or_else(none);
        Self { name: name.into(), parameters }
    }

    /// Reads a tool as OpenAI's clients describe it: `{"type": "function", "function": {..}}`, or
    /// the function alone. `None` if it has no name.
    #[must_use]
    pub fn read(tool: &Map<String, Value>) -> Option<Self> {
        let function = match tool.get("function") {
            Some(function) => function.as_object()?,
            None => tool,
        };
        let parameters = function.get("parameters").or(function.get("input_schema"));
        Some(Self::new(function.get("name")?.as_str()?, parameters.cloned()))
    }
}

/// A call of a tool.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The name of the tool.
    pub name: String,
    /// The arguments: the text of a JSON object.
    pub arguments: String,
}

/// The form in which a model calls tools.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `{"name": .., "arguments": {..}}` between `<tool_call>` and `</tool_call>`, as Hermes and
    /// Qwen write.
    Hermes,
    /// `<function=..>` with a `<parameter=..>` for each argument, between `<tool_call>` and
    /// `</tool_call>`, as Qwen3-Coder writes.
    QwenXml,
    /// `{"name": .., "parameters": {..}}` and nothing else, as Llama 3 writes.
    Json,
    /// `[name(argument=value), ..]` and nothing else, as Llama 3.2 and 4 write.
    Pythonic,
    /// `[TOOL_CALLS]` and a list of `{"name": .., "arguments": {..}}`, as Mistral writes.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{..}` for each call, as later models of Mistral write.
    MistralArgs,
}

impl ToolFormat {
    /// The format that a template for conversations with tools asks for, by the marks in its text.
    /// A template without known marks gets [`Json`](Self::Json).
    #[must_use]
    pub fn of(template: &Template) -> Self {
        let source = template.source_with_tools();
        let has = |mark: &str| source.contains(mark);
        if has("<function=") {
            Self::QwenXml
        } else if has("<tool_call>") {
            Self::Hermes
        } else if has("[TOOL_CALLS]") {
            if has("[ARGS]") { Self::MistralArgs } else { Self::Mistral }
        } else if has("[func_name1(") || has("<|python_start|>") {
            Self::Pythonic
        } else {
            Self::Json
        }
    }

    /// The marks around calls. Where one of them is a special token, a detokenizer leaves it out of
    /// the text: [`CallParser::push`] needs it in its place.
    #[must_use]
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml => &["<tool_call>", "</tool_call>"],
            Self::Json | Self::Pythonic => &[],
            Self::Mistral | Self::MistralArgs => &["[TOOL_CALLS]", "[ARGS]"],
        }
    }
}
