#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::*;

const TEMPLATES: [(&str, &str); 3] = [
    ("llama3", include_str!("golden/llama3.jinja")),
    ("chatml", include_str!("golden/chatml.jinja")),
    ("features", include_str!("golden/features.jinja")),
];

/// A conversation that `golden/make_golden.py` rendered.
#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Vec<Message>,
    reply: bool,
    now: i64,
    tools: Option<Json>,
    documents: Option<Json>,
    variables: BTreeMap<String, Json>,
}

/// The text that jinja2 made of it.
#[derive(Deserialize)]
struct Expected {
    text: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Golden {
    template: String,
    #[serde(flatten)]
    conversation: Conversation,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Shared {
    conversations: Vec<Conversation>,
    texts: BTreeMap<String, Vec<Expected>>,
}

fn special() -> Vec<(String, String)> {
    let token = |key: &str, text: &str| (key.to_owned(), text.to_owned());
    vec![token("bos_token", "<|begin_of_text|>"), token("eos_token", "<|eot_id|>")]
}

fn template(source: &str) -> Result<Template> {
    Template::compile("test", source, special(), None)
}

/// Describes the difference from what jinja2 made.
fn difference(source: &str, given: &Conversation, expected: &Expected) -> Option<String> {
    let options = ChatOptions {
        tools: given.tools.clone(),
        documents: given.documents.clone(),
        variables: given.variables.clone(),
        now: given.now,
    };
    let found = template(source).and_then(|template| {
        template.render(&given.messages, given.reply, &options).map(Rendered::into_text)
    });
    match (found, &expected.text, &expected.error) {
        (Ok(found), Some(expected), _) => {
            let mut lines = found.split('\n').zip(expected.split('\n'));
            match lines.find(|(found, expected)| found != expected) {
                Some((found, expected)) => Some(format!("{found:?}\n  instead of\n  {expected:?}")),
                None => (found != *expected).then(|| "the end differs".to_owned()),
            }
        }
        (Err(error), _, Some(expected)) => {
            // jinja2's own words for what is undefined are others; a template's are its own.
            let own = !expected.contains("has no ") && !expected.contains("is undefined");
            let other = own && !error.to_string().contains(expected.as_str());
            other.then(|| format!("{error} instead of {expected}"))
        }
        (found, ..) => Some(format!("{found:?}")),
    }
}

#[test]
fn texts_equal_those_of_jinja2() {
    let cases: Vec<Golden> = serde_json::from_str(include_str!("golden/golden.json")).unwrap();
    let wrong = cases.iter().filter_map(|case| {
        let source = TEMPLATES.into_iter().find(|(name, _)| *name == case.template).unwrap().1;
        let found = difference(source, &case.conversation, &case.expected)?;
        Some(format!("{} {}: {found}", case.template, case.conversation.name))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(cases.len() > 70);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Templates that use the constructs of public ones.
#[test]
fn other_texts_equal_those_of_jinja2() {
    let shared: Shared = serde_json::from_str(include_str!("golden/templates.json")).unwrap();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/template/golden/templates");
    let mut wrong = Vec::new();
    for (name, expected) in &shared.texts {
        let source = std::fs::read_to_string(format!("{directory}/{name}.jinja")).unwrap();
        assert_eq!(expected.len(), shared.conversations.len());
        for (conversation, expected) in shared.conversations.iter().zip(expected) {
            if let Some(found) = difference(&source, conversation, expected) {
                wrong.push(format!("{name} {}: {found}", conversation.name));
            }
        }
    }
    assert!(shared.texts.len() > 40);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn rendered(source: &str) -> Result<String> {
    let messages = [Message::new("user", "hi")];
    template(source)?.render(&messages, true, &ChatOptions::default()).map(Rendered::into_text)
}

#[test]
fn hostile_templates_end_soon_and_small() {
    let doubling = "{% set ns = namespace(s='ab') %}{% for i in range(60) %}\
        {% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}";
    let loops =
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}";
    let macros = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let repeated = "{{ 'x' * 99999999999 }}";
    let json = "{% set x = [range(9999)|list] * 9999 %}{{ x|tojson }}";
    let wide = "{{ [1]|tojson(indent=999999999) }}";
    let lists = "{% set ns = namespace(l=[1, 2]) %}{% for i in range(60) %}\
        {% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|length }}";
    let right = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}\
        {% set ns.l = [] + (2 * ns.l) %}{% endfor %}{{ ns.l|length }}";
    let large = "{% set ns = namespace(l=[1] * 999999999) %}{% for i in range(60) %}\
        {% set ns.l = [] + ns.l %}{% endfor %}{{ ns.l|length }}";
    let called = "{% macro f(l, n) %}{{ f(l+l, n+1) if n < 60 }}{% endmacro %}{{ f([1], 0) }}";
    let streams = "{% set ns = namespace(l=[1]|map('abs')) %}{% for i in range(60) %}\
        {% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|list|length }}";
    let sums = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}\
        {% set ns.l = [ns.l, ns.l]|sum(start=[]) %}{% endfor %}{{ ns.l|length }}";
    let chains = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}\
        {% set ns.l = ns.l|chain(ns.l) %}{% endfor %}{{ ns.l|length }}";
    let joined = [lists, right, large, called, streams, sums, chains];
    let separated = "{% set s = 'a' * 1000000 %}{{ range(10000)|list|tojson(separators=[s, s]) }}";
    let padded = "{{ 'x'.center(9999999999) }}";
    let indented = "{{ 'x'|indent(9999999999, true) }}";
    // A namespace in many lists that grows later.
    let shared = "{% set n = namespace(l=[]) %}{% set all = [n] * 900 + [n] %}\
        {% set n.l = range(2000)|list %}{{ all|string|length }}";
    let nested = "{% set a = namespace() %}{% set b = namespace() %}{% set c = namespace() %}\
        {% set a.l = [b] * 900 %}{% set b.l = [c] * 900 %}{% set c.l = [1] * 900 %}{{ a }}";
    let printed = "{% set x = 'a' * 1000000 %}{{ [x] * 100000 }}";
    let joined_texts = "{% set x = 'a' * 1000000 %}{{ ([x] * 100000)|join|length }}";
    let formatted = "{% set x = 'a' * 1000000 %}{{ '%s' % ([x] * 100000) }}";
    let translated = "{% set x = 'a' * 1000000 %}{{ x.translate({97: x})|length }}";
    let texts = [printed, joined_texts, formatted, translated];
    let others = [doubling, loops, macros, repeated, json, wide, separated, padded, indented];
    for source in others.into_iter().chain([shared, nested]).chain(texts).chain(joined) {
        let start = Instant::now();
        let error = rendered(source).unwrap_err();
        assert!(matches!(error, Error::Template { .. }), "{source}: {error}");
        assert!(error.to_string().len() < 300, "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{source}: {:?}", start.elapsed());
    }
}

#[test]
fn errors_are_one_line_and_name_the_place() {
    let error = rendered("a\n{{ messages[0].content.nothing.more }}").unwrap_err().to_string();
    assert!(error.starts_with("chat template test: ") && error.ends_with("(line 2)"), "{error}");
    let error = rendered("a\n\n{% if %}").unwrap_err().to_string();
    assert!(error.ends_with("(line 3)"), "{error}");
    let error = rendered("{{ raise_exception('a\u{1b}[31m\nb') }}").unwrap_err().to_string();
    assert!(error.contains(r"a\u{1b}[31m\nb"), "{error}");
    let error = rendered("{% include 'x' %}").unwrap_err();
    assert!(matches!(error, Error::Template { .. }));
    assert!(rendered("{{ strftime_now('%!') }}").is_err());
    assert_eq!(rendered("{% if no_such_thing %}a{% endif %}b").unwrap(), "b");
}

/// A conversation of any length is within the bounds.
#[test]
fn long_conversations_are_rendered() {
    let (options, source) = (ChatOptions::default(), TEMPLATES[1].1);
    let short = |i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, "so");
    let many: Vec<Message> = (0..4000).map(short).collect();
    template(source).unwrap().render(&many, true, &options).unwrap();
    let huge = [Message::new("user", "word ".repeat(4 << 20))];
    let text = template(TEMPLATES[0].1).unwrap().render(&huge, true, &options).unwrap();
    assert!(text.text().len() > 20 << 20);
}

#[test]
fn objects_keep_their_order() {
    let text = r#"{"z":1,"a":{"y":2.5,"b":[null,true]}}"#;
    let json = Json::parse(text).unwrap();
    assert_eq!(serde_json::to_string(&json).unwrap(), text);
    let message: Message =
        serde_json::from_str(r#"{"role":"tool","content":"x","z":{"q":1,"c":2}}"#).unwrap();
    assert_eq!(
        serde_json::to_string(&message).unwrap(),
        r#"{"role":"tool","content":"x","z":{"q":1,"c":2}}"#
    );
}

/// Values that a template builds are charged for wherever they are, and nothing else changes.
#[test]
fn what_is_made_is_weighed() {
    let weighed = |source: &str| scan::weigh(source, &[]).unwrap();
    for same in [
        "a + b {# c + d #} {% raw %}{{ a + b }}{% endraw %} {{ 'a + b' }} {{ 1e+5 }} {{- x +}}",
        "{%+ if a %}{{ -a - b }}{%- endif +%}{{ \"}} + \\\" + \" }}",
        "{% for (a, b) in c[1:].d(e, f) %}{{ [] }}{{ {} }}{{ () }}{{ (a) }}{{ a[b] }}{% endfor %}",
        "{% set a %}x{% endset %}{% macro f(a, b=c) %}{% endmacro %}{% call(a, b) f() %}{% endcall %}",
    ] {
        assert_eq!(weighed(same), same);
    }
    for (source, expected) in [
        ("{{ a + b }}", "{{ (a)|weighed + (b)|weighed }}"),
        ("{{a.b['+']|c('x',d=1)+-e}}", "{{(a.b['+']|c('x',d=1))|weighed+(-e)|weighed}}"),
        (
            "{{ a - b * 2 + 0x1e+c ~ d }}",
            "{{ a - (b * 2)|weighed + (0x1e)|weighed+(c ~ d)|weighed }}",
        ),
        (
            "{{ f([a+b], x=c + (d+e)) }}",
            "{{ f((([(a)|weighed+(b)|weighed])|built), x=(c)|weighed + (((d)|weighed+(e)|weighed))|weighed) }}",
        ),
        (
            "{% if not a + b is none and c in d+e %}",
            "{% if not (a)|weighed + (b)|weighed is none and c in (d)|weighed+(e)|weighed %}",
        ),
        (
            "{%- set n.l = n.l + [x] if x else y -%}",
            "{%- set n.l =( (n.l)|weighed + ((([x])|built))|weighed if x else y)|held(n) -%}",
        ),
        ("{% set a, b = c, d %}", "{% set a, b =( c, d)|kept %}"),
        ("{% set a=b == c %}", "{% set a=(b == c)|kept %}"),
        ("{% for a in b + c recursive %}", "{% for a in (b)|weighed + (c)|weighed recursive %}"),
        ("{% for (a, b) in [(c, d)] %}", "{% for (a, b) in (([(((c, d))|built)])|built) %}"),
        ("{{ [[a][0], {'b': c}.b] }}", "{{ (([(([a])|built)[0], (({'b': c})|built).b])|built) }}"),
        (
            "{% raw %}{{{% endraw -%}{{ {'a': b + c}['a'] }}",
            "{% raw %}{{{% endraw -%}{{ (({'a': (b)|weighed + (c)|weighed})|built)['a'] }}",
        ),
    ] {
        assert_eq!(weighed(source), expected);
        assert!(rendered(source).is_err() || template(source).is_ok(), "{source}");
    }
    let refused = |source: &str| scan::weigh(source, &[]).unwrap_err();
    assert_eq!([refused("{{ a"), refused("{{ ) + a }}")], [scan::Refusal::Tokens; 2]);
    let counted = "{{ ([1] + [2] + 'a b'.split())|length - 1 + 2 * 3 }}";
    assert_eq!(rendered(counted).unwrap(), "9");
    assert_eq!(rendered("{{ 'x' + nothing|default('y') }}").unwrap(), "xy");
    let kept = "{% set n = namespace(l=[]) %}{% for i in range(4) %}{% set n.l = n.l + [(i, {'a': i})] %}\
        {% endfor %}{% for (i, d) in n.l[1:] %}{{ i }}{{ d.a }}{% endfor %}";
    assert_eq!(rendered(kept).unwrap(), "112233");
}

/// Values that are deep, or large only when they are written out, and sources that are one deep tree.
#[test]
fn nothing_is_deeper_than_the_stack() {
    let grown = |step: &str, use_: &str, rounds: usize| {
        format!(
            "{{% set n = namespace(s=1, t=1) %}}{{% for i in range({rounds}) %}}{{% set n.s = {step} %}}\
             {{% set n.t = {} %}}{{% endfor %}}{{{{ {use_} }}}}",
            step.replace("n.s", "n.t")
        )
    };
    let uses = ["n.s", "n.s|string|length", "n.s == n.t", "n.s in [n.t]", "{n.s: 1}|length", "'x'"];
    for step in [
        "[n.s, n.s]",
        "{'a': n.s, 'b': n.s}",
        "(n.s, n.s)",
        "[0, 0]|map('default', n.s, true)|list",
    ] {
        for use_ in uses {
            let error = rendered(&grown(step, use_, 70)).unwrap_err().to_string();
            assert!(error.contains("too much work"), "{step} {use_}: {error}");
        }
    }
    for step in ["[n.s]", "{'a': n.s}", "(n.s,)", "[n.s]|batch(1)|list"] {
        let error = rendered(&grown(step, "'x'", 90_000)).unwrap_err().to_string();
        assert!(error.contains("nested too deep"), "{step}: {error}");
    }
    for cycle in [
        "{% set n.a = n %}",
        "{% set n.a = [{'b': n}] %}",
        "{% set m = namespace(n=n) %}{% set n.a = [m] %}",
        "{% set l = [n] %}{% set m = namespace() %}{% set m.l = l %}{% set n.a = m %}",
    ] {
        let found = rendered(&format!("{{% set n = namespace() %}}{cycle}{{{{ n }}}}"));
        assert!(found.unwrap_err().to_string().contains("part of itself"), "{cycle}");
    }
    let view = grown("([1, 2] if i == 0 else n.s)[0:]", "n.s", 20_000);
    assert_eq!(rendered(&view).unwrap(), "[1, 2]");
    // In the stack that a thread of the server has.
    let trees = [
        ("not ", "1", ""),
        ("-", "1", ""),
        ("", "a", ".b"),
        ("", "a", "|upper"),
        ("", "1", "+1"),
        ("", "1", "~1"),
        ("", "1", " and 1"),
        ("", "2", "**2"),
        ("", "1", " if 1 else 1"),
        ("", "a", "()"),
        ("", "a", "[0]"),
        ("(", "1", ")"),
        ("[", "", "]"),
    ];
    let compile = move || {
        for (before, middle, after) in trees {
            for count in [600, 200_000] {
                let source = [&before.repeat(count), middle, &after.repeat(count)].concat();
                let found = rendered(&format!("{{{{ {source} }}}}"));
                assert!(count < 1000 || found.is_err(), "{before}{middle}{after}");
            }
        }
        for count in [400, 100_000] {
            let branches = "{% elif x %}".repeat(count);
            let found = rendered(&format!("{{% if x %}}{branches}{{% endif %}}"));
            assert_eq!(found.is_ok(), count == 400);
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(compile).unwrap().join().unwrap();
    assert!(rendered("{{ '{:99999999}'.format(1) }}").unwrap_err().to_string().contains("width"));
    assert_eq!(rendered("{{ '{:>4}'.format(1) }}").unwrap(), "   1");
}

#[test]
fn tests_and_line_ends_are_those_of_jinja2() {
    let yes = "{{ 'a' is iterable }}{{ [] is iterable }}{{ {} is iterable }}{{ x is iterable }}\
        {{ 'a' is sequence }}{{ [] is sequence }}{{ {} is sequence }}{{ x is sequence }}";
    assert_eq!(rendered(yes).unwrap(), "True".repeat(8));
    let no = "{{ none is iterable }}{{ 1 is iterable }}{{ none is sequence }}{{ 1 is sequence }}";
    assert_eq!(rendered(no).unwrap(), "False".repeat(4));
    // As templates of Qwen3-Coder have it.
    let tools = "{% if tools is iterable and tools | length > 0 %}T{% endif %}ok";
    assert_eq!(rendered(tools).unwrap(), "ok");
    assert_eq!(rendered("A\r\nB\rC\r\n").unwrap(), "A\nB\nC");
}

#[test]
fn no_tools_and_no_calls_are_as_if_absent() {
    let template = template(
        "{{ 'tools' if tools is not none }}{% for m in messages %}\
         {{ 'calls' if 'tool_calls' in m }}{{ m.content }}{% endfor %}",
    )
    .unwrap();
    let render = |tools: &str, calls: &str| {
        let mut message = Message::new("assistant", "x");
        message.fields.insert("tool_calls".to_owned(), Json::parse(calls).unwrap());
        let tools = Some(Json::parse(tools).unwrap());
        let options = ChatOptions { tools, ..ChatOptions::default() };
        template.render(&[message], true, &options).unwrap().into_text()
    };
    assert_eq!(render("[]", "[]"), "x");
    assert_eq!(render("[1]", "[1]"), "toolscallsx");
}

#[test]
fn conversations_with_tools_have_their_own_template() {
    let config = r#"{"chat_template": [{"name": "default", "template": "D{{ tools | length if tools }}"},
                                       {"name": "tool_use", "template": "T{{ tools | length }}"}]}"#;
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llamba-stories/tokenizer.json");
    let files = crate::files::TokenizerFiles::default()
        .with("tokenizer.json", std::fs::read(files).unwrap())
        .with("tokenizer_config.json", config.as_bytes());
    let tokenizer = Tokenizer::from_files("t", &files).unwrap();
    let render = |name: Option<&str>, tools: &str| {
        let tools = Some(Json::parse(tools).unwrap());
        let options = ChatOptions { tools, ..ChatOptions::default() };
        let template = Template::of(&tokenizer, name).unwrap();
        template.render(&[Message::new("user", "x")], true, &options).unwrap().into_text()
    };
    assert_eq!(render(None, "[1]"), "T1");
    assert_eq!(render(None, "[]"), "D");
    assert_eq!(render(Some("default"), "[1]"), "D1");
    assert_eq!(render(Some("tool_use"), "[1, 2]"), "T2");
    assert!(Template::of(&tokenizer, None).unwrap().takes_tools());
}

/// A template cannot write far more than it was given.
#[test]
fn the_text_of_a_rendering_is_bounded() {
    let source = "{% set a = 'x' * 100000 %}{% for i in range(10000) %}{{ a }}{% endfor %}";
    let template = Template::compile("long", source, Vec::new(), None).unwrap();
    let error = template.render(&[], false, &ChatOptions::default()).unwrap_err().to_string();
    assert!(error.contains("its text is longer than 16777216 bytes"), "{error}");
}
