//! Constraints that can be compiled, and those that cannot.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;

use mlx_rs::Array;
use serde_json::{Value, json};

use super::{Constraint, Grammar};
use crate::decode::generation::{Completion, Generation, Reason};
use crate::{Compute, Context, Error, LanguageModel, Llamba, Model, State, Stream, Tokenizer};

fn llamba() -> Llamba {
    Llamba::embedded().compute(Compute::Cpu).load().unwrap()
}

fn write(llamba: &Llamba, grammar: &Grammar, options: &Generation) -> Completion {
    let constraint = Constraint::new(llamba.tokenizer().unwrap(), grammar).unwrap();
    llamba.generate("Once", &options.clone().constraint(constraint)).unwrap()
}

/// A model that counts what it reads.
struct Counting<'m>(&'m Model, RefCell<Vec<usize>>);

impl LanguageModel for Counting<'_> {
    type State = State;

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn eos(&self) -> &[u32] {
        self.0.eos()
    }

    fn start(&self) -> crate::Result<State> {
        self.0.start()
    }

    fn read(&self, tokens: &Array, state: State) -> crate::Result<(Array, State)> {
        self.1.borrow_mut().push(tokens.dim(1) as usize);
        self.0.read(tokens, state)
    }

    fn head(&self, hidden: &Array) -> crate::Result<Array> {
        LanguageModel::head(self.0, hidden)
    }

    fn arrays(state: &State) -> Vec<&Array> {
        Model::arrays(state)
    }
}

fn choice(texts: &[&str]) -> Grammar {
    Grammar::Choice(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn a_text_ends_where_nothing_can_follow() {
    let llamba = llamba();
    let options = Generation::greedy().max_tokens(60);
    let texts = ["a \"cat\" / dog\n", "épée \u{1f980}"];
    for text in texts {
        let completion = write(&llamba, &choice(&[text]), &options);
        assert_eq!((completion.text.as_str(), completion.reason), (text, Reason::Complete));
    }
    let completion = write(&llamba, &choice(&texts), &options);
    assert!(texts.contains(&completion.text.as_str()), "{}", completion.text);
    let completion = write(&llamba, &Grammar::Regex("[0-9]{3}/\"[a-f]\"".into()), &options);
    let text = completion.text.as_bytes();
    assert!(text.len() == 7 && text[..3].iter().all(u8::is_ascii_digit), "{}", completion.text);
    let lark = "start: \"(\" start \")\" | \"x\"";
    let completion = write(&llamba, &Grammar::Lark(lark.into()), &options.temperature(1.0).seed(2));
    let (open, rest) = completion.text.split_once('x').unwrap();
    assert_eq!((open.replace('(', ")"), completion.reason), (rest.to_owned(), Reason::Complete));
}

#[test]
fn the_end_of_a_text_waits_until_the_text_is_complete() {
    let llamba = llamba();
    let eos = llamba.tokenizer().unwrap().eos_ids()[0];
    let mut options = Generation::greedy().max_tokens(60);
    options.sampling.logit_bias = vec![(eos, 100.0)];
    // At once without a constraint, and at the first chance with one.
    assert_eq!(llamba.generate("Once", &options).unwrap().reason, Reason::Eos(eos));
    let completion = write(&llamba, &Grammar::Regex("[ab]{3,9}".into()), &options);
    assert_eq!((completion.text.len(), completion.reason), (3, Reason::Eos(eos)));
    let completion =
        write(&llamba, &Grammar::JsonSchema(json!({"enum": [true, {"a": []}]})), &options);
    assert!(["true", "{\"a\": []}"].contains(&completion.text.as_str()), "{}", completion.text);
    // A text that goes on after such a token never has one inside.
    options.eos = Some(Vec::new());
    let completion = write(&llamba, &Grammar::Regex("[ab]{3,9}".into()), &options);
    assert_eq!((completion.text.len(), completion.reason), (9, Reason::Complete));
}

#[test]
fn the_limit_and_stop_strings_still_end_a_text() {
    let llamba = llamba();
    let grammar = Grammar::Regex("(ab)+".into());
    let options = Generation::greedy().max_tokens(5);
    assert_eq!(write(&llamba, &grammar, &options.clone()).reason, Reason::Length);
    let stopped = write(&llamba, &grammar, &options.stop("ba"));
    assert_eq!((stopped.text.as_str(), stopped.reason), ("a", Reason::Stop("ba".into())));
    let nothing = write(&llamba, &grammar, &Generation::greedy().max_tokens(0));
    assert_eq!((nothing.text.as_str(), nothing.reason), ("", Reason::Length));
}

/// Tokens that must follow are read together with those around them, and the text is that of single
/// steps, which log-probabilities ask for; so are the next steps.
#[test]
fn forced_tokens_are_read_at_once() {
    let llamba = llamba();
    let schema = json!({
        "type": "object", "required": ["name of the animal", "number of legs"],
        "properties": {
            "name of the animal": {"enum": ["cat", "dog"]},
            "number of legs": {"enum": [2, 4]},
        },
        "additionalProperties": false,
    });
    let constraint =
        Constraint::new(llamba.tokenizer().unwrap(), &Grammar::JsonSchema(schema)).unwrap();
    let options = Generation::greedy().max_tokens(80).constraint(constraint);
    let run = |options: &Generation| {
        let counting = Counting(llamba.model(), RefCell::default());
        let (context, prompt) = (Context::new(&counting).unwrap(), [1, 5, 6]);
        let stream = Stream::new(&counting, llamba.tokenizer(), context, &prompt, options);
        let completion = stream.unwrap().finish().unwrap();
        (completion, counting.1.into_inner())
    };
    let (whole, reads) = run(&options);
    let (stepwise, steps) = run(&options.clone().logprobs(0));
    let single = |completion: &Completion| (completion.text.clone(), completion.tokens.clone());
    assert_eq!(single(&whole), single(&stepwise));
    assert_eq!((&whole.reason, &stepwise.reason), (&Reason::Complete, &Reason::Complete));
    assert_eq!(steps.len(), stepwise.tokens.len());
    assert!(3 * reads.len() < steps.len(), "{reads:?} {}", whole.text);
    for seed in 0..4 {
        let random = options.clone().temperature(1.5).seed(seed);
        assert_eq!(single(&run(&random).0), single(&run(&random.logprobs(0)).0));
    }
    // All of the text but what is pending has been read, and the rest can be.
    let read: usize = reads.iter().sum();
    assert_eq!(read as u64, whole.context.read());
    assert_eq!(read + whole.context.pending().len(), 3 + whole.tokens.len());
    let on = |context: Context| {
        let next = llamba.resume(context, "\n", &Generation::greedy().max_tokens(8));
        next.unwrap().finish().unwrap().text
    };
    assert_eq!(on(whole.context), on(stepwise.context));
    // A limit and a stop string count forced tokens too.
    for n in 1..whole.tokens.len() {
        let (cut, _) = run(&options.clone().max_tokens(n));
        assert_eq!((cut.tokens.as_slice(), cut.reason), (&whole.tokens[..n], Reason::Length));
    }
    let (cut, _) = run(&options.clone().stop("of legs"));
    let end = whole.text.find("of legs").unwrap();
    assert_eq!(cut.text, whole.text[..end]);
}

#[test]
fn grammars_that_cannot_be_used_are_named_with_their_place() {
    let llamba = llamba();
    let object =
        |part: Value| Grammar::JsonSchema(json!({"type": "object", "properties": {"x/y": part}}));
    let deep = |n: usize| "(".repeat(n) + "a" + &")".repeat(n);
    let mut nested = json!({"type": "null"});
    for _ in 0..130 {
        nested = json!({"items": nested});
    }
    for (grammar, expected) in [
        (
            Grammar::JsonSchema(json!({"type": "objekt"})),
            "JSON schema: Invalid type: objekt (at its root)",
        ),
        (Grammar::JsonSchema(json!([1])), "JSON schema: expected an object, true or false"),
        (Grammar::JsonSchema(json!(false)), "JSON schema: false allows no value"),
        (
            object(json!({"items": {"type": "strin"}})),
            "Invalid type: strin (at /properties/x~1y/items)",
        ),
        (object(json!({"anyOf": [{}, {"if": true}]})), "[\"if\"] (at /properties/x~1y/anyOf/1)"),
        (
            object(json!({"type": "string", "pattern": "(("})),
            "unclosed group (at /properties/x~1y)",
        ),
        (object(json!({"$ref": "#/nope"})), "Pointer '/nope' does not exist"),
        (object(json!({"$ref": "http://example.com/x"})), "http://example.com/x"),
        (
            Grammar::JsonSchema(json!({"minimum": 5, "type": "integer", "maximum": 1})),
            "minimum (5)",
        ),
        (Grammar::JsonSchema(nested), "131 levels of brackets, expected at most 120"),
        (Grammar::Regex("(".into()), "regular expression: at 1(8)"),
        (Grammar::Regex("(?<=a)b".into()), "look-around"),
        (Grammar::Regex("((a{1000}){1000}){1000}".into()), "seconds"),
        (Grammar::Regex(deep(121)), "121 levels of brackets"),
        (
            Grammar::Regex("a".repeat(Grammar::LONGEST + 1)),
            "1048577 bytes, expected at most 1048576",
        ),
        (Grammar::Lark("start: foo".into()), "grammar: at 1(8): unknown name: \"foo\""),
        (Grammar::Lark(String::new()), "no start rule found"),
        (Grammar::Lark(format!("start: {}", deep(100))), "too deeply nested"),
        (choice(&[]), "choice: expected a list of texts"),
        (choice(&["a", ""]), "none of them empty"),
    ] {
        let error = Constraint::new(llamba.tokenizer().unwrap(), &grammar).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Constraint { .. }), "{message}");
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_constraint_belongs_to_a_tokenizer() {
    let llamba = llamba();
    let mut other: Value =
        serde_json::from_slice(include_bytes!("../../assets/llamba-stories/tokenizer.json"))
            .unwrap();
    other["added_tokens"][0]["lstrip"] = json!(true);
    let other = crate::files::TokenizerFiles::default()
        .with("tokenizer.json", other.to_string().into_bytes());
    let other = Tokenizer::from_files("made/up/tokenizer.json", &other).unwrap();
    let constraint = Constraint::new(&other, &choice(&["a"])).unwrap();
    let error = llamba.generate("Once", &Generation::greedy().constraint(constraint)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("compiled for the tokenizer made/up/tokenizer.json"), "{message}");
}

#[test]
fn objects_have_the_listed_properties_only_unless_their_schema_says_otherwise() {
    let llamba = llamba();
    let boolean = json!({"type": "boolean"});
    let listed = json!({"properties": {"a": boolean}, "required": ["a"], "type": "object"});
    let inner = json!({"type": "array", "items": listed, "minItems": 1, "maxItems": 1});
    let options = Generation::default().temperature(1.0).seed(4).max_tokens(40);
    for (schema, closed) in [
        (listed.clone(), true),
        (inner, true),
        (json!({"$ref": "#/$defs/x", "$defs": {"x": listed}}), true),
        (
            json!({"type": "object", "properties": {"a": boolean}, "required": ["a"],
                "additionalProperties": boolean}),
            false,
        ),
        // Each part has some of the properties.
        (json!({"allOf": [listed, {"properties": {"b": boolean}, "required": ["b"]}]}), false),
        (json!({"type": "object"}), false),
    ] {
        let completion = write(&llamba, &Grammar::JsonSchema(schema.clone()), &options);
        let ended = completion.reason == Reason::Complete;
        assert!(ended || !closed, "{schema}: {}", completion.text);
        assert!(!closed || completion.text.matches(':').count() == 1, "{}", completion.text);
    }
}

#[test]
fn thousands_of_choices_are_compiled() {
    let llamba = llamba();
    let texts: Vec<String> = (0..20_000).map(|i| format!("{} {i}", i * 7919 % 10_007)).collect();
    let options = Generation::default().temperature(1.0).seed(1).max_tokens(40);
    let completion = write(&llamba, &Grammar::Choice(texts.clone()), &options);
    assert!(texts.contains(&completion.text), "{}", completion.text);
    let repeated = vec!["0".to_owned(); 10_000];
    assert_eq!(write(&llamba, &Grammar::Choice(repeated), &options).text, "0");
}
