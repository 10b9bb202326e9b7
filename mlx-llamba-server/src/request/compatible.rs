//! Parameters of other servers, accepted where they would change nothing.
//!
//! The one rule for all endpoints: a parameter at its default, `null` or empty, or asking for what
//! this server does anyway, is accepted. A known one that would change the answer, and cannot be
//! honored, is refused by name. An unknown one is ignored, and named in a header of the answer and
//! in the log, or refused by a strict server.

use serde_json::{Map, Value, json};

/// The accepted values of a parameter.
enum Accepts {
    /// All values: none of them changes the answer.
    Anything,
    /// Only these, as JSON: they ask for the default behavior.
    Only(&'static [&'static str]),
}

use Accepts::{Anything, Only};

/// Parameters of OpenAI's and other servers that a request type may lack. A field of a request type
/// takes precedence over its entry here.
const PARAMETERS: &[(&str, Accepts)] = &[
    ("add_generation_prompt", Only(&["true"])),
    ("allowed_token_ids", Only(&[])),
    ("audio", Only(&[])),
    ("background", Only(&["false"])),
    ("bad_words", Only(&[])),
    ("best_of", Only(&["1"])),
    ("cache_prompt", Anything),
    ("chat_template_kwargs", Anything),
    ("container", Only(&[])),
    ("context_length_exceeded_behavior", Anything),
    ("continue_final_message", Only(&["false"])),
    ("conversation", Only(&[])),
    ("detokenize", Only(&["true"])),
    ("dimensions", Only(&[])),
    ("documents", Only(&[])),
    ("early_stopping", Only(&["false"])),
    ("echo", Only(&["false"])),
    ("format", Only(&[])),
    ("function_call", Only(&["\"none\"", "\"auto\""])),
    ("functions", Only(&[])),
    ("grammar", Only(&[])),
    ("include", Anything),
    ("include_stop_str_in_output", Only(&["false"])),
    ("json_schema", Only(&[])),
    ("keep_alive", Anything),
    ("length_penalty", Only(&["1"])),
    ("logits_processors", Only(&[])),
    ("logprobs", Only(&["false"])),
    ("max_tool_calls", Anything),
    ("mcp_servers", Only(&[])),
    ("metadata", Anything),
    ("min_tokens", Only(&["0"])),
    ("mirostat", Only(&["0"])),
    ("modalities", Only(&["[\"text\"]"])),
    ("parallel_tool_calls", Anything),
    // A guess at the answer, with which other servers answer sooner.
    ("prediction", Anything),
    ("previous_response_id", Only(&[])),
    ("priority", Anything),
    ("prompt_cache_key", Anything),
    ("prompt_cache_retention", Anything),
    ("prompt_logprobs", Only(&[])),
    ("reasoning", Anything),
    ("reasoning_effort", Anything),
    ("request_id", Anything),
    ("return_token_ids", Only(&["false"])),
    ("safety_identifier", Anything),
    ("service_tier", Anything),
    ("skip_special_tokens", Only(&["true"])),
    ("spaces_between_special_tokens", Anything),
    ("stop_token_ids", Only(&[])),
    ("store", Anything),
    ("stream_options", Anything),
    ("suffix", Only(&[])),
    ("thinking", Only(&[r#"{"type":"disabled"}"#])),
    ("tool_choice", Only(&["\"none\"", "\"auto\""])),
    ("tools", Only(&[])),
    ("top_logprobs", Only(&["0"])),
    ("truncate_prompt_tokens", Only(&[])),
    ("truncation", Only(&["\"auto\"", "\"disabled\""])),
    ("typical_p", Only(&["1"])),
    ("use_beam_search", Only(&["false"])),
    ("verbosity", Only(&["\"medium\""])),
    ("web_search_options", Only(&[])),
];

/// Adds the parameters to the properties of a request's schema.
pub(crate) fn complete(properties: &mut Map<String, Value>) {
    for (name, accepts) in PARAMETERS {
        let schema = match accepts {
            Anything => json!({ "description": "Accepted and ignored." }),
            Only(values) => {
                let given = values.iter().filter_map(|value| serde_json::from_str(value).ok());
                let empty = [Value::Null, json!(""), json!([]), json!({})];
                let values: Vec<Value> = empty.into_iter().chain(given).collect();
                json!({ "description": "Not supported.", "enum": values })
            }
        };
        properties.entry(*name).or_insert(schema);
    }
}

#[cfg(test)]
mod tests {
    use super::{Accepts, PARAMETERS};

    #[test]
    fn the_table_is_sorted_and_its_values_are_json() {
        assert!(PARAMETERS.is_sorted_by_key(|(name, _)| name));
        for (name, accepts) in PARAMETERS {
            if let Accepts::Only(values) = accepts {
                for value in *values {
                    let parsed = serde_json::from_str::<serde_json::Value>(value);
                    assert!(parsed.is_ok(), "{name}: {value}");
                }
            }
        }
    }
}
