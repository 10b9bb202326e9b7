//! The fields that constrain a text: those of OpenAI and vLLM.

use mlx_llamba::constraint::Grammar;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::request::raw::text_or;

/// A JSON schema.
#[derive(Debug, Clone, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Schema {
    Object(Map<String, Value>),
    Text(String),
}

text_or!(Schema { Text, Object }, "a JSON schema: an object, or the text of one");

/// A JSON schema with a name, as OpenAI's clients send it. It is always strict.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct NamedSchema {
    /// Any object, if it is missing.
    schema: Option<Schema>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// The format of the text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat {
    Text,
    JsonObject {
        /// The schema of the object, as llama.cpp takes it.
        schema: Option<Schema>,
    },
    JsonSchema {
        json_schema: NamedSchema,
    },
}

/// vLLM's description of a text; one of its fields.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
struct StructuredOutputs {
    json: Option<Schema>,
    regex: Option<String>,
    #[schemars(length(max = 10000), inner(length(min = 1)))]
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
}

/// The fields that constrain a text, at most one of them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct Structured {
    /// `text`, `json_object` or `json_schema`.
    #[serde(default, deserialize_with = "format")]
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
    /// The text is JSON of this schema.
    guided_json: Option<Schema>,
    /// The text matches this regular expression as a whole.
    guided_regex: Option<String>,
    /// The text is one of these.
    #[schemars(length(max = 10000), inner(length(min = 1)))]
    guided_choice: Option<Vec<String>>,
    /// The text is of this grammar, in llguidance's variant of Lark.
    guided_grammar: Option<String>,
}

/// An empty object asks for nothing.
fn format<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Option<ResponseFormat>, D::Error> {
    let value = Option::<Value>::deserialize(given)?;
    let value = value.filter(|value| value.as_object().is_none_or(|object| !object.is_empty()));
    // Serde takes numbers for the names of kinds.
    if value.as_ref().and_then(|value| value.get("type")).is_some_and(|kind| !kind.is_string()) {
        return Err(serde::de::Error::custom("type: expected a string"));
    }
    value
        .map(|value| ResponseFormat::deserialize(value).map_err(serde::de::Error::custom))
        .transpose()
}

impl Structured {
    /// JSON of a schema, or else any object.
    pub(crate) fn json(schema: Option<Map<String, Value>>) -> Self {
        let schema = schema.map(Schema::Object);
        Self { response_format: Some(ResponseFormat::JsonObject { schema }), ..Self::default() }
    }

    /// The grammar and the parameter that asks for it.
    ///
    /// # Errors
    /// 400 if there are several, or if a schema's text is not JSON.
    pub(crate) fn grammar(self) -> Result<Option<(Grammar, &'static str)>, Problem> {
        let outputs = self.structured_outputs.unwrap_or_default();
        let mut all = Vec::new();
        match self.response_format {
            None | Some(ResponseFormat::Text) => {}
            Some(ResponseFormat::JsonObject { schema: schema @ Some(_) }) => {
                all.extend(json(schema, "response_format")?);
            }
            Some(ResponseFormat::JsonSchema {
                json_schema: NamedSchema { schema: schema @ Some(_), .. },
            }) => {
                all.extend(json(schema, "response_format")?);
            }
            Some(_) => all.push((Grammar::JsonObject, "response_format")),
        }
        all.extend(json(self.guided_json, "guided_json")?);
        all.extend(json(outputs.json, "structured_outputs")?);
        let object = outputs.json_object.unwrap_or(false).then_some(Grammar::JsonObject);
        all.extend(object.map(|grammar| (grammar, "structured_outputs")));
        for (regex, choice, lark, names) in [
            (
                self.guided_regex,
                self.guided_choice,
                self.guided_grammar,
                ["guided_regex", "guided_choice", "guided_grammar"],
            ),
            (outputs.regex, outputs.choice, outputs.grammar, ["structured_outputs"; 3]),
        ] {
            let regex = regex.filter(|text| !text.is_empty()).map(Grammar::Regex);
            let choice = choice.filter(|texts| !texts.is_empty()).map(Grammar::Choice);
            let lark = lark.filter(|text| !text.is_empty()).map(Grammar::Lark);
            let given = [regex, choice, lark].into_iter().zip(names);
            all.extend(given.filter_map(|(grammar, name)| Some((grammar?, name))));
        }
        if let [(_, first), (_, second), ..] = &all[..] {
            let message = format!("not beside {first}: a text has one format");
            return Err(Problem::parameter(*second, message));
        }
        Ok(all.pop())
    }
}

fn json(
    schema: Option<Schema>,
    name: &'static str,
) -> Result<Option<(Grammar, &'static str)>, Problem> {
    let schema = match schema {
        None => return Ok(None),
        Some(Schema::Object(object)) => Value::Object(object),
        Some(Schema::Text(text)) if text.is_empty() => return Ok(None),
        Some(Schema::Text(text)) => serde_json::from_str(&text)
            .map_err(|error| Problem::parameter(name, format!("not JSON: {error}")))?,
    };
    Ok(Some((Grammar::JsonSchema(schema), name)))
}
