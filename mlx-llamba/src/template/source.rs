//! Where a tokenizer's chat template stands.

use serde_json::Value;

use crate::tokenizer::TokenizerFiles;

/// The templates of a tokenizer and the special tokens that they may spell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Name and text; the one that is used when none is asked for is called `default`.
    pub(crate) templates: Vec<(String, String)>,
    /// `bos_token` and so on, as `tokenizer_config.json` spells them.
    pub(crate) special: Vec<(String, String)>,
}

/// The name of the template that is used when none is asked for.
pub(crate) const DEFAULT: &str = "default";

impl Sources {
    /// Finds `chat_template.jinja`, which goes before `chat_template` in `tokenizer_config.json`:
    /// a string, or a list of named ones. The error says what is wrong with them.
    pub(crate) fn find(files: &TokenizerFiles, config: &Value) -> Result<Self, String> {
        let mut templates = match &config["chat_template"] {
            Value::Null => Vec::new(),
            Value::String(text) => vec![(DEFAULT.to_owned(), text.clone())],
            Value::Array(list) => list.iter().map(named).collect::<Result<_, _>>()?,
            other => return Err(format!("chat_template is {}, expected a string", kind(other))),
        };
        if let Some(bytes) = &files.chat_template {
            let text = std::str::from_utf8(bytes)
                .map_err(|e| format!("chat_template.jinja is not UTF-8 text: {e}"))?;
            templates.retain(|(name, _)| name != DEFAULT);
            templates.insert(0, (DEFAULT.to_owned(), text.to_owned()));
        }
        let special = config.as_object().into_iter().flatten().filter_map(|(key, value)| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            key.ends_with("_token").then(|| (key.clone(), text.to_owned()))
        });
        Ok(Self { templates, special: special.collect() })
    }

    /// The template called `name`, or the only one there is.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.templates.iter().find(|(other, _)| other == name);
        match (found, self.templates.as_slice()) {
            (Some((_, text)), _) => Some(text),
            (None, [(_, text)]) if name == DEFAULT => Some(text),
            _ => None,
        }
    }
}

fn named(entry: &Value) -> Result<(String, String), String> {
    match (&entry["name"], &entry["template"]) {
        (Value::String(name), Value::String(text)) => Ok((name.clone(), text.clone())),
        _ => Err("chat_template: an entry of the list has no name or no template".to_owned()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
