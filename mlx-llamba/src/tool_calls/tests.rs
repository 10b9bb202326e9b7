//! Calls in the forms of public models.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};

use super::{CallParser, Piece, Tool, ToolFormat};

fn tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "units": {"enum": ["C", "F"]}}});
    vec![Tool::new("weather", Some(weather)), Tool::new("now", None)]
}

/// The text and the calls of a reply that comes in pieces of `size` characters.
fn read(format: ToolFormat, reply: &str, size: usize) -> (String, Vec<(String, Value)>) {
    let mut parser = CallParser::new(format, tools());
    let characters: Vec<char> = reply.chars().collect();
    let mut pieces: Vec<Piece> = characters
        .chunks(size)
        .flat_map(|part| parser.push(&part.iter().collect::<String>()))
        .collect();
    pieces.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call(call) => {
                calls.push((call.name, serde_json::from_str(&call.arguments).unwrap()));
            }
        }
    }
    (text, calls)
}

/// Asserts what a reply means, however it is cut.
fn means(format: ToolFormat, reply: &str, text: &str, calls: &[(&str, Value)]) {
    let calls: Vec<_> =
        calls.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    for size in [1, 2, 3, 7, 1000] {
        let found = read(format, reply, size);
        assert_eq!(found, (text.to_owned(), calls.clone()), "{format:?} {reply:?} by {size}");
    }
}

#[test]
fn calls_of_every_format() {
    use ToolFormat::{Hermes, Json, Mistral, MistralArgs, Pythonic, QwenXml};
    let paris = ("weather", json!({"city": "Paris"}));
    let now = ("now", json!({}));
    means(
        Hermes,
        "I look.\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n\
         <tool_call>\n{\"name\": \"now\"}\n</tool_call>\n",
        "I look.\n",
        &[paris.clone(), now.clone()],
    );
    let rome = ("weather", json!({"city": "Rome\nA<B", "days": 2, "units": "C"}));
    means(
        QwenXml,
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\nA<B\n</parameter>\n<parameter=days>\n2\n\
         </parameter>\n<parameter=units>\nC\n</parameter>\n</function>\n</tool_call>",
        "",
        &[rome],
    );
    let json = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Paris\"}}";
    means(Json, json, "", std::slice::from_ref(&paris));
    means(
        Json,
        &format!(" {json}; {{\"name\": \"now\", \"parameters\": {{}}}}"),
        "",
        &[paris.clone(), now.clone()],
    );
    let all = json!({"city": "O'Hare \"x\" \u{e9}\n", "days": -3, "units": [true, null, 1.5, {"a": "b"}]});
    means(
        Pythonic,
        "[weather(city='O\\'Hare \"x\" \\u00e9\\n', days=-3, units=[True, None, 1.5, {'a': \"b\"}]), now()]",
        "",
        &[("weather", all), now.clone()],
    );
    means(
        Mistral,
        "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}, {\"name\": \"now\", \
         \"arguments\": {}}]",
        "",
        &[paris.clone(), now.clone()],
    );
    means(
        MistralArgs,
        "So: [TOOL_CALLS]weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]now[ARGS]{}",
        "So:",
        &[paris, now],
    );
}

#[test]
fn what_is_no_call_is_text() {
    use ToolFormat::{Hermes, Json, Mistral, Pythonic};
    for (format, reply) in [
        (Hermes, "a <tool_ b <tool_call"),
        (Hermes, "a <tool_call>\n{\"name\": 7}\n</tool_call> b"),
        (Hermes, "<tool_call>\n{\"name\": \"now\", \"argu"),
        (Hermes, " \n x \n"),
        (Hermes, "<tool_call></tool_call>"),
        (Json, "{\"name\": \"unknown\", \"parameters\": {}}"),
        (Json, "{\"name\": \"now\""),
        (Json, "{\"a\": 1} and more"),
        (Json, "Hello {\"name\": \"now\", \"parameters\": {}}"),
        (Pythonic, "[now(]"),
        (Pythonic, "[1, 2]"),
        (Pythonic, "[other()]"),
        (Mistral, "[TOOL_CALLS] and"),
    ] {
        for size in [1, 3, 1000] {
            let (text, calls) = read(format, reply, size);
            assert!(calls.is_empty(), "{reply:?}");
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join("");
            assert_eq!(squeezed(&text), squeezed(reply), "{format:?}");
        }
    }
    // Literals nested without end.
    let deep = format!("[now(a={}1)]", "[".repeat(100_000));
    assert!(read(Pythonic, &deep, 1000).1.is_empty());
}
