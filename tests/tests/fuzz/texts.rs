//! Files of tokenizers, and chat templates.

use std::path::Path;

use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::template::Json;
use mlx_llamba::{ChatOptions, Message, Template, Tokenizer};
use mlx_llamba_tests::chat;

use crate::harness::Target;

const TEXT: &str = "Hello,  wörld 123 \u{1f600} <|im_end|>\r\n";

fn tried(tokenizer: &Tokenizer) -> mlx_llamba::Result<()> {
    let ids = tokenizer.encode(TEXT, true)?;
    tokenizer.decode(&ids, false)?;
    let template = Template::of(tokenizer, None)?;
    let rendered = template.render(&[Message::new("user", TEXT)], true, &ChatOptions::default())?;
    tokenizer.encode_rendered(&rendered).map(drop)
}

#[test]
fn tokenizer() {
    let directory = chat::directory(1);
    let sound = TokenizerFiles::of_model(directory.path()).unwrap();
    // The index of the name of the file in `READ`, and the file.
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for (i, name) in TokenizerFiles::READ.iter().enumerate() {
        let file = sound.get(name).unwrap_or(b"{}");
        seeds.push([&[i as u8], file].concat());
    }
    let words = &[
        "\"type\":\"Sequence\"",
        "\"normalizers\":[",
        "\"type\":\"Split\"",
        "\"pattern\":{\"Regex\":\"(a|b)*\"}",
        "\"type\":\"Replace\"",
        "\"type\":\"Precompiled\"",
        "\"type\":\"Unigram\"",
        "\"type\":\"WordPiece\"",
        "\"type\":\"TemplateProcessing\"",
        "\"type\":\"Metaspace\"",
        "\"add_prefix_space\":true",
        "\"merges\":[",
        "\"added_tokens\":[",
        "\"content\":\"\"",
        "\"chat_template\":",
        "\"eos_token\":",
        "null",
        "true",
        "{",
        "[",
        "}",
        "]",
        ",",
    ];
    Target { name: "tokenizer", seeds, words }.fuzz(|bytes| {
        let (which, file) = bytes.split_first().unwrap_or((&0, &[]));
        let name = TokenizerFiles::READ[usize::from(*which) % TokenizerFiles::READ.len()];
        let files = sound.clone().with(name, file.to_vec());
        let result = Tokenizer::from_files("fuzz/tokenizer.json", &files).and_then(|t| tried(&t));
        result.map_or_else(|error| error.to_string(), |()| format!("sound {name}"))
    });
}

#[test]
fn template() {
    let llamba = chat::load(1);
    let tokenizer = llamba.require_tokenizer().unwrap();
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba/src/template/golden/templates");
    let files =
        std::fs::read_dir(golden).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let mut seeds: Vec<Vec<u8>> = files.filter(|source| source.len() < 6000).collect();
    seeds.sort();
    let words = &[
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "#}",
        "-%}",
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if tools %}",
        "{% else %}",
        "{% endif %}",
        "{% set x = ",
        "{% set ns = namespace(x=[]) %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% macro f(a) %}",
        "{% endmacro %}",
        "| tojson(indent=9)",
        "| join",
        "| map('upper')",
        " * 99999999",
        "range(999999)",
        "messages[::-1]",
        "'%s' % x",
        ".split('')",
        "loop.index0",
        "raise_exception('x')",
        "strftime_now('%Y')",
        "(((((((((((((((((",
        "[[[[[[[[[[[[[[[[",
        " ~ ",
        " or ",
        " is defined",
        " not in ",
    ];
    let mut options = ChatOptions::default();
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object","a":[1,2.5,null]}}}]"#;
    options.tools = Some(Json::parse(tools).unwrap());
    let messages =
        ["system", "user", "assistant", "tool", "user"].map(|role| Message::new(role, TEXT));
    Target { name: "template", seeds, words }.fuzz(|bytes| {
        let source = String::from_utf8_lossy(bytes);
        let result = Template::new("fuzz", &source, tokenizer)
            .and_then(|template| template.render(&messages, true, &options))
            .and_then(|rendered| tokenizer.encode_rendered(&rendered));
        result.map_or_else(|error| error.to_string(), |ids| format!("{} tokens", ids.len()))
    });
}
