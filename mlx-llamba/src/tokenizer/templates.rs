//! The chat templates among a tokenizer's files, as text.

use serde_json::Value;

use crate::files::{TokenizerFiles, json};

/// The name of the template that is used unless another one is asked for.
pub(crate) const DEFAULT: &str = "default";

/// A tokenizer's chat templates and the special tokens that they can use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChatTemplates {
    /// Names and texts.
    pub(crate) templates: Vec<(String, String)>,
    /// Variables such as `bos_token`, as the configuration spells them.
    pub(crate) special: Vec<(String, String)>,
}

impl ChatTemplates {
    /// Finds the templates: `chat_template` in `tokenizer_config.json`, which is a text, a list of
    /// named ones or an object of them; that of `chat_template.json`; `chat_template.jinja`, which
    /// replaces them; and those in `additional_chat_templates`. The error says what is wrong.
    pub(super) fn find(files: &TokenizerFiles, config: &Value) -> Result<Self, String> {
        let mut found = Self { templates: Vec::new(), special: special(config) };
        found.add_all(&config["chat_template"], "tokenizer_config.json")?;
        let file = "chat_template.json";
        if let Some(bytes) = files.get(file).filter(|_| found.templates.is_empty()) {
            let value: Value =
                json::from_slice(bytes).map_err(|e| format!("{file} is not JSON: {e}"))?;
            found.add_all(&value["chat_template"], file)?;
        }
        if let Some(bytes) = files.get("chat_template.jinja") {
            found.add(DEFAULT, text(bytes, "chat_template.jinja")?);
        }
        for (name, bytes) in files.templates() {
            found.add(name, text(bytes, name)?);
        }
        Ok(found)
    }

    fn add_all(&mut self, value: &Value, file: &str) -> Result<(), String> {
        let wrong = |what: &str| format!("chat_template in {file}: {what}");
        match value {
            Value::Null => {}
            Value::String(text) => self.add(DEFAULT, text.clone()),
            Value::Array(list) => {
                for entry in list {
                    let (Some(name), Some(text)) =
                        (entry["name"].as_str(), entry["template"].as_str())
                    else {
                        return Err(wrong("an entry of the list has no name or no template"));
                    };
                    self.add(name, text.to_owned());
                }
            }
            Value::Object(object) => {
                for (name, text) in object {
                    let text = text.as_str().ok_or_else(|| wrong("a template is not a text"))?;
                    self.add(name, text.to_owned());
                }
            }
            Value::Bool(_) => return Err(wrong("it is a boolean, expected a text")),
            Value::Number(_) => return Err(wrong("it is a number, expected a text")),
        }
        Ok(())
    }

    /// Adds a template; a later one of the same name replaces it.
    fn add(&mut self, name: &str, text: String) {
        self.templates.retain(|(known, _)| known != name);
        self.templates.push((name.to_owned(), text));
    }

    /// The template called `name`; the only one there is also counts as the default one.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.templates.iter().find(|(known, _)| known == name);
        match (found, self.templates.as_slice()) {
            (Some((_, text)), _) => Some(text),
            (None, [(_, text)]) if name == DEFAULT => Some(text),
            _ => None,
        }
    }
}

/// The entries of the configuration that spell a special token.
fn special(config: &Value) -> Vec<(String, String)> {
    let entries = config.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        key.ends_with("_token").then(|| (key.clone(), text.to_owned()))
    });
    entries.collect()
}

fn text(bytes: &[u8], name: &str) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("{name} is not UTF-8 text: {e}"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_a_tokenizer() {
        let sources = |config: &str, file: Option<&str>| {
            let mut files = TokenizerFiles::default();
            if let Some(text) = file {
                files = files.with("chat_template.jinja", text.as_bytes().to_vec());
            }
            ChatTemplates::find(&files, &serde_json::from_str(config).unwrap())
        };
        let get = |found: &Result<ChatTemplates, String>, name| {
            found.as_ref().unwrap().get(name).map(ToOwned::to_owned)
        };
        let one = sources(r#"{"chat_template": "a", "bos_token": {"content": "<s>"}}"#, None);
        assert_eq!(get(&one, "default").as_deref(), Some("a"));
        assert_eq!(one.as_ref().unwrap().special, [("bos_token".to_owned(), "<s>".to_owned())]);
        assert_eq!(get(&one, "tool_use"), None);
        let list = r#"{"chat_template": [{"name": "default", "template": "a"},
                                         {"name": "tool_use", "template": "b"}]}"#;
        let named = sources(list, None);
        assert_eq!(get(&named, "default").as_deref(), Some("a"));
        assert_eq!(get(&named, "tool_use").as_deref(), Some("b"));
        let beside = sources(list, Some("c"));
        assert_eq!(get(&beside, "default").as_deref(), Some("c"));
        assert_eq!(get(&beside, "tool_use").as_deref(), Some("b"));
        assert_eq!(get(&sources("{}", None), "default"), None);
        assert!(sources(r#"{"chat_template": 3}"#, None).unwrap_err().contains("a number"));
        assert!(sources(r#"{"chat_template": [{"name": "x"}]}"#, None).is_err());

        let object = sources(r#"{"chat_template": {"default": "a", "tool_use": "b"}}"#, None);
        assert_eq!(get(&object, "tool_use").as_deref(), Some("b"));
        let more = TokenizerFiles::default()
            .with("chat_template.json", &b"\xef\xbb\xbf{\"chat_template\": \"d\"}"[..])
            .with("additional_chat_templates/tool_use.jinja", &b"\xef\xbb\xbft"[..]);
        let more = ChatTemplates::find(&more, &Value::Null);
        assert_eq!(get(&more, "default").as_deref(), Some("d"));
        assert_eq!(get(&more, "tool_use").as_deref(), Some("t"));
    }
}
