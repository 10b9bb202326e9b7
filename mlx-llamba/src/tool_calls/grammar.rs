//! Grammars of replies that call tools.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Tool, ToolFormat};
use crate::constraint::Grammar;
use crate::constraint::schema::prepared;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

impl ToolFormat {
    /// The grammar of replies that call one of `tools`, or with `parallel` any number of them one
    /// after the other. With `text`, the reply may instead be JSON of that schema.
    ///
    /// # Errors
    /// [`Error::Constraint`] if a name has other characters than `a-z`, `A-Z`, `0-9`, `_`, `.` and
    /// `-`, or if the parameters of a tool are not an object.
    pub fn grammar(
        self,
        tools: &[Tool],
        tokenizer: &Tokenizer,
        parallel: bool,
        text: Option<&Value>,
    ) -> Result<Grammar> {
        let bad = |reason| Error::Constraint { kind: "tool", reason };
        let mark = |mark: &str| match tokenizer.token_id(mark) {
            // The text of a special token is not in the texts of a grammar.
            Some(id) if tokenizer.is_control(id) => format!("<[{id}]>"),
            _ => literal(mark),
        };
        let more = |separator: &str| match (parallel, separator) {
            (false, _) => String::new(),
            (true, "") => " call*".to_owned(),
            (true, separator) => format!(" ({} call)*", literal(separator)),
        };
        let start = match self {
            Self::Hermes | Self::QwenXml => format!("call{}", more("\n")),
            // Llama calls one tool at a time.
            Self::Json => "call".to_owned(),
            Self::Pythonic => format!("\"[\" call{} \"]\"", more(", ")),
            Self::Mistral => format!("{} \"[\" call{} \"]\"", mark("[TOOL_CALLS]"), more(", ")),
            Self::MistralArgs => format!("call{}", more("")),
        };
        let mut lark = format!("start: calls{}\n", if text.is_some() { " | text" } else { "" });
        let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        let _ = writeln!(lark, "calls: {start}\ncall: {}", names.join(" | "));
        for (i, tool) in tools.iter().enumerate() {
            let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            if tool.name.is_empty() || !tool.name.chars().all(legal) {
                return Err(bad(format!("{:?}: expected letters, digits, _, . and -", tool.name)));
            }
            let Value::Object(schema) = &tool.parameters else {
                return Err(bad(format!("{}: its parameters are not a JSON schema", tool.name)));
            };
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), "object".into());
            let schema = Value::Object(schema);
            let name = &tool.name;
            let whole = |key: &str| {
                format!(
                    "{} args_{i} \"}}\"",
                    literal(&format!("{{\"name\": \"{name}\", \"{key}\": "))
                )
            };
            let call = match self {
                Self::Hermes => {
                    let (begin, end) = (mark("<tool_call>"), mark("</tool_call>"));
                    format!("{begin} \"\\n\" {} \"\\n\" {end}", whole("arguments"))
                }
                Self::Json => whole("parameters"),
                Self::Mistral => whole("arguments"),
                Self::MistralArgs => {
                    format!(
                        "{} {} {} args_{i}",
                        mark("[TOOL_CALLS]"),
                        literal(name),
                        mark("[ARGS]")
                    )
                }
                Self::QwenXml | Self::Pythonic => {
                    self.by_argument(i, name, &schema, &mark, &mut lark)
                }
            };
            let _ = writeln!(lark, "call_{i}: {call}");
            if !matches!(self, Self::QwenXml | Self::Pythonic) {
                let _ = writeln!(lark, "args_{i}: %json {}", prepared(&schema));
            }
        }
        if let Some(schema) = text {
            let _ = writeln!(lark, "text: %json {}", prepared(schema));
        }
        Ok(Grammar::Lark(lark))
    }

    /// A call whose arguments have rules of their own: the required ones, then any of the others, in
    /// their order.
    fn by_argument(
        self,
        i: usize,
        name: &str,
        schema: &Value,
        mark: &impl Fn(&str) -> String,
        lark: &mut String,
    ) -> String {
        let empty = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let listed = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
        let is_required = |key: &str| listed.iter().any(|name| name == key);
        let mut arguments: Vec<(usize, &String, &Value)> =
            properties.iter().enumerate().map(|(j, (key, schema))| (j, key, schema)).collect();
        arguments.sort_by_key(|(_, key, _)| !is_required(key));
        let mut before = String::new();
        let mut rules = Vec::new();
        for &(j, key, own) in &arguments {
            let rule = format!("arg_{i}_{j}");
            let mut own = own.clone();
            if let Some(own) = own.as_object_mut() {
                for name in ["$defs", "definitions"] {
                    if let Some(definitions) = schema.get(name) {
                        own.insert(name.to_owned(), definitions.clone());
                    }
                }
            }
            let value = match self {
                Self::QwenXml if own["type"] == "string" && own.get("enum").is_none() => {
                    // The text of a string, up to the end of the parameter.
                    let _ =
                        writeln!(lark, "value_{i}_{j}[suffix=\"\\n</parameter>\\n\"]: /(?s:.*)/");
                    format!("{} value_{i}_{j}", literal(&format!("<parameter={key}>\n")))
                }
                Self::QwenXml => {
                    let (begin, end) = (format!("<parameter={key}>\n"), "\n</parameter>\n");
                    let texts =
                        own["enum"].as_array().filter(|all| all.iter().all(Value::is_string));
                    let value = match texts {
                        Some(all) => {
                            let all: Vec<String> = all.iter().map(Value::to_string).collect();
                            let _ = writeln!(lark, "value_{i}_{j}: {}", all.join(" | "));
                            format!("value_{i}_{j}")
                        }
                        None => {
                            let _ = writeln!(lark, "value_{i}_{j}: %json {}", prepared(&own));
                            format!("value_{i}_{j}")
                        }
                    };
                    format!("{} {value} {}", literal(&begin), literal(end))
                }
                _ => {
                    let _ = writeln!(lark, "value_{i}_{j}: %json {}", prepared(&own));
                    format!("{} value_{i}_{j}", literal(&format!("{key}=")))
                }
            };
            let _ = writeln!(lark, "{rule}: {value}");
            let required = is_required(key);
            let comma = if self == Self::Pythonic { "\", \" " } else { "" };
            if self == Self::QwenXml {
                rules.push(if required { rule } else { format!("{rule}?") });
            } else if required {
                rules.push(format!("{}{rule}", if rules.is_empty() { "" } else { comma }));
            } else if rules.is_empty() {
                // The first of several optional ones has no comma before it.
                before = rule;
                rules.push(String::new());
            } else {
                rules.push(format!("({comma}{rule})?"));
            }
        }
        match self {
            Self::QwenXml => {
                let (open, close) = (mark("<tool_call>"), mark("</tool_call>"));
                let function = literal(&format!("\n<function={name}>\n"));
                format!("{open} {function} {} \"</function>\\n\" {close}", rules.join(" "))
            }
            _ => {
                let inner = rules.join(" ");
                let inner = match before.as_str() {
                    "" => inner,
                    first => format!("({first}{inner})?"),
                };
                format!("{} {inner} \")\"", literal(&format!("{name}(")))
            }
        }
    }
}

/// A literal of Lark, which writes strings as JSON does.
fn literal(text: &str) -> String {
    json!(text).to_string()
}
