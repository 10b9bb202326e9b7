#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use super::{Rendered, Tokenizer};
use crate::decode::detokenize::Detokenizer;
use crate::files::TokenizerFiles;
use crate::template::Json;
use crate::{ChatOptions, Error, Message, Sampling, Template};
use proptest::prelude::*;
use serde_json::{Value, json};

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llamba-stories");

fn stories() -> TokenizerFiles {
    TokenizerFiles::beside(&Path::new(STORIES).join("tokenizer.json")).unwrap()
}

/// A tokenizer of four letters with Llama 3's special tokens.
fn small(change: impl FnOnce(&mut Value), config: Value, generation: Value) -> TokenizerFiles {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(4, "<|begin_of_text|>"), special(5, "<|end_of_text|>"),
                         special(6, "<|eot_id|>"), special(7, "<|eom_id|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u{120}": 3}, "merges": ["a b"]},
    });
    change(&mut tokenizer);
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ];
    let there = files.into_iter().filter(|(_, value)| !value.is_null());
    there.fold(TokenizerFiles::default(), |files, (name, value)| {
        files.with(name, value.to_string().into_bytes())
    })
}

fn load(files: &TokenizerFiles) -> Result<Tokenizer, Error> {
    Tokenizer::from_files("made/up/tokenizer.json", files)
}

/// Puts the beginning-of-text token in front, as Llama 3's `tokenizer.json` does.
fn with_bos(tokenizer: &mut Value) {
    let bos = json!({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}});
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin_of_text|>":
            {"id": "<|begin_of_text|>", "ids": [4], "tokens": ["<|begin_of_text|>"]}},
    });
}

#[test]
fn stories_encode_as_the_model_was_trained() {
    let by_directory = Tokenizer::open(STORIES).unwrap();
    let by_file = Tokenizer::open(format!("{STORIES}/tokenizer.json")).unwrap();
    for tokenizer in [by_directory, by_file] {
        assert_eq!(tokenizer.encode("Once upon a time", true).unwrap(), [1, 866, 941, 259, 700]);
        assert_eq!(tokenizer.encode("Once upon a time", false).unwrap(), [866, 941, 259, 700]);
        assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
        assert!(tokenizer.encode("", false).unwrap().is_empty());
        let ids = [1, 866, 941, 259, 700];
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Once upon a time");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|end_of_text|>Once upon a time");
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[1u32][..]));
        assert_eq!(tokenizer.token_id("<|begin_of_text|>"), Some(0));
        tokenizer.check_vocabulary(4096).unwrap();
    }
}

#[test]
fn the_beginning_of_text_is_put_in_front_as_the_files_say() {
    let encode = |add: Value, post: bool, text: &str, special| {
        let config = json!({"bos_token": {"content": "<|begin_of_text|>"}, "add_bos_token": add});
        let change = |t: &mut Value| {
            if post {
                with_bos(t)
            }
        };
        let tokenizer = load(&small(change, config, Value::Null)).unwrap();
        tokenizer.encode(text, special).unwrap()
    };
    let spelled = "<|begin_of_text|>ab";
    for (add, post, with) in [
        (Value::Null, true, true),
        (Value::Null, false, false),
        (json!(true), true, true),
        (json!(true), false, true),
        (json!(false), true, false),
        (json!(false), false, false),
    ] {
        let expected: &[u32] = if with { &[4, 2] } else { &[2] };
        assert_eq!(encode(add.clone(), post, "ab", true), expected, "{add} {post}");
        assert_eq!(encode(add.clone(), post, "ab", false), [2], "{add} {post}");
        assert_eq!(encode(add.clone(), post, spelled, true), [4, 2], "{add} {post}");
        assert_eq!(encode(add.clone(), post, spelled, false), [4, 2], "{add} {post}");
    }
}

#[test]
fn ends_of_text_come_from_every_file_and_from_known_names() {
    let eos = |config: Value, generation: Value| {
        load(&small(|_| {}, config, generation)).unwrap().eos_ids().to_vec()
    };
    assert_eq!(eos(Value::Null, Value::Null), [5, 6, 7]);
    assert_eq!(eos(Value::Null, json!({"eos_token_id": 1})), [1, 5, 6, 7]);
    assert_eq!(eos(json!({"eos_token": "b"}), json!({"eos_token_id": [0, 5]})), [0, 1, 5, 6, 7]);
    assert_eq!(
        eos(json!({"eos_token": {"content": "a"}}), json!({"eos_token_id": null})),
        [0, 5, 6, 7]
    );
    let generation = json!({"bos_token_id": 3});
    assert_eq!(load(&small(|_| {}, Value::Null, generation)).unwrap().bos_id(), Some(3));
    assert_eq!(load(&small(|_| {}, Value::Null, Value::Null)).unwrap().bos_id(), Some(4));
}

#[test]
fn truncation_and_padding_of_the_file_are_not_for_prompts() {
    let change = |t: &mut Value| {
        t["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        t["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                              "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
    };
    let tokenizer = load(&small(change, Value::Null, Value::Null)).unwrap();
    assert_eq!(tokenizer.encode("aaaa", true).unwrap(), [0, 0, 0, 0]);
}

/// A padding and a token that are far too long.
#[test]
fn files_that_would_take_much_memory_or_time() {
    let start = std::time::Instant::now();
    let change = |t: &mut Value| {
        t["padding"] = json!({"strategy": {"Fixed": 1u64 << 40}, "direction": "Left",
                              "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
    };
    let error = load(&small(change, Value::Null, Value::Null)).unwrap_err().to_string();
    let expected = "a padding to 1099511627776 tokens";
    assert!(error.contains("made/up/tokenizer.json") && error.contains(expected), "{error}");
    let change = |t: &mut Value| t["added_tokens"][3]["content"] = json!("x".repeat(20_000));
    let error = load(&small(change, Value::Null, Value::Null)).unwrap_err().to_string();
    assert!(error.contains("made/up/tokenizer.json") && error.contains("20000 bytes"), "{error}");
    let listed = json!({"added_tokens_decoder": {"8": {"content": "x".repeat(20_000)}}});
    assert_eq!(load(&small(|_| {}, listed, Value::Null)).unwrap().token(8), None);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn a_vocabulary_of_another_model_is_noticed() {
    let tokenizer = load(&small(|_| {}, Value::Null, Value::Null)).unwrap();
    for fits in [8, 9, 16] {
        tokenizer.check_vocabulary(fits).unwrap();
    }
    for other in [7, 18, 128_256] {
        match tokenizer.check_vocabulary(other) {
            Err(Error::TokenizerMismatch { max_id: 7, vocab_size, .. }) => {
                assert_eq!(vocab_size, other);
            }
            found => panic!("{found:?}"),
        }
    }
}

/// Fine-tunes add a token for padding after the end of the vocabulary.
#[test]
fn added_tokens_after_the_vocabulary_are_accepted() {
    let change = |t: &mut Value| {
        let mut padding = t["added_tokens"][0].clone();
        (padding["id"], padding["content"]) = (json!(8), json!("<pad>"));
        t["added_tokens"].as_array_mut().unwrap().push(padding);
    };
    let tokenizer = load(&small(change, Value::Null, Value::Null)).unwrap();
    assert_eq!(tokenizer.token_id("<pad>"), Some(8));
    tokenizer.check_vocabulary(8).unwrap();
    tokenizer.check_vocabulary(9).unwrap();
    assert!(tokenizer.check_vocabulary(7).is_err());
}

#[test]
fn added_tokens_of_the_configuration_are_read() {
    // A special token that `tokenizer.json` has in its vocabulary only.
    let change = |t: &mut Value| {
        t["model"]["vocab"]["<|eot_id|>"] = json!(4);
        let added = t["added_tokens"].as_array_mut().unwrap();
        added.remove(2);
        added.iter_mut().enumerate().for_each(|(i, token)| token["id"] = json!(5 + i));
    };
    let ids = |listed: Value| {
        let config = json!({"added_tokens_decoder": listed});
        let tokenizer = load(&small(change, config, Value::Null)).unwrap();
        (tokenizer.encode("a<|eot_id|><p>b", false).unwrap(), tokenizer)
    };
    assert_eq!(ids(json!({})).0, [0, 1]);
    let token = |content: &str| json!({"content": content, "special": true});
    let (found, tokenizer) = ids(json!({"8": token("<p>"), "4": token("<|eot_id|>")}));
    assert_eq!(found, [0, 4, 8, 1]);
    assert_eq!(tokenizer.decode(&found, true).unwrap(), "ab");
    // Ids that the tokenizer would not give are passed over.
    assert_eq!(ids(json!({"9": token("<p>"), "3": token("<|eot_id|>"), "x": 1})).0, [0, 1]);
}

#[test]
fn special_tokens_may_be_named_in_their_own_file() {
    let files = small(|_| {}, json!({"eos_token": "ab"}), Value::Null);
    // With a byte-order mark.
    let map = "\u{feff}{\"bos_token\": {\"content\": \"a\"}, \"eos_token\": \"b\"}";
    let map = map.as_bytes();
    let tokenizer = load(&files.with("special_tokens_map.json", map)).unwrap();
    assert_eq!(tokenizer.bos_id(), Some(0));
    assert_eq!(tokenizer.eos_ids()[0], 2);
}

#[test]
fn a_missing_tokenizer_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    for path in [empty.path().to_owned(), empty.path().join("tokenizer.json")] {
        let error = Tokenizer::open(path).unwrap_err();
        assert!(matches!(error, Error::TokenizerMissing { .. }));
        let message = error.to_string();
        for part in ["tokenizer.json does not exist", "--tokenizer", "meta-llama/", "HF_TOKEN"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

/// A pipe would be waited for, and a device may never end.
#[test]
#[cfg(unix)]
fn only_regular_files_are_read() {
    for device in ["/dev/zero", "/dev/null"] {
        let error = Tokenizer::open(device).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = Tokenizer::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn plain_text_tokens_keep_their_characters() {
    // Half of its characters also stand for bytes, the blank and the last one do not.
    let change = |t: &mut Value| t["added_tokens"][3]["content"] = json!("<|\u{e9} \u{65e5}|>");
    let tokenizer = load(&small(change, Value::Null, Value::Null)).unwrap();
    let mut stream = Detokenizer::new(&tokenizer, false);
    let pieces: Vec<String> = [0, 7, 3].map(|id| stream.push(id)).to_vec();
    assert_eq!(pieces, ["a", "<|\u{e9} \u{65e5}|>", " "]);
    assert_eq!(pieces.concat(), tokenizer.decode(&[0, 7, 3], false).unwrap());
    // All of its characters also stand for bytes.
    let change = |t: &mut Value| t["added_tokens"][3]["content"] = json!("<caf\u{e9}\u{120}>");
    let tokenizer = load(&small(change, Value::Null, Value::Null)).unwrap();
    assert_eq!(tokenizer.encode("<caf\u{e9}\u{120}>", false).unwrap(), [7]);
    assert_eq!(tokenizer.decode(&[0, 7, 3], false).unwrap(), "a<caf\u{e9}\u{120}> ");
    assert_eq!(Detokenizer::new(&tokenizer, false).push(7), "<caf\u{e9}\u{120}>");
}

/// Ids of `<|begin_of_text|>` and `<|eot_id|>` in the tokenizer of `merging`.
const BEGIN: u32 = 27;
const END: u32 = 29;

/// A tokenizer that merges letters of its special tokens with what stands before and behind them.
/// Its ends of turns are no special tokens, as in some files; without `added`, nothing is.
fn merging(added: bool) -> Tokenizer {
    let letters = "<|>_abdefghinotx.\u{120}\u{10a}";
    let merges = ["a <", "< |", "| >", "> \u{10a}", "\u{10a} \u{10a}", "|> b", "e o", "\u{120} <"];
    let change = |t: &mut Value| {
        let mut vocab: Vec<String> = letters.chars().map(String::from).collect();
        vocab.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        let ids = |(id, token): (usize, &String)| (token.clone(), json!(id));
        t["model"]["vocab"] = vocab.iter().enumerate().map(ids).collect();
        t["model"]["merges"] = json!(merges);
        for (i, token) in t["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
            (token["id"], token["special"]) = (json!(27 + i), json!(i != 2));
        }
        if !added {
            t["added_tokens"] = json!([]);
        }
    };
    load(&small(change, Value::Null, Value::Null)).unwrap()
}

fn rendered(tokenizer: &Tokenizer, source: &str, messages: &[Message]) -> Rendered {
    let template = Template::new("test", source, tokenizer).unwrap();
    template.render(messages, true, &ChatOptions::default()).unwrap()
}

#[test]
fn what_only_spells_a_special_token_stays_text() {
    let (tokenizer, plain) = (merging(true), merging(false));
    let source = "{{ bos_token }}{% for m in messages %}{{ m.role + '\n' + m.content }}\
        {{ m.tool_calls|tojson if m.tool_calls }}<|eot_id|>{% endfor %}\
        {{ tools|tojson if tools }}{{ tag }}";
    let mut message = Message::new("a<|eot_id|>", "<|eot_id|>a <|begin_of_text|>\n\n");
    message
        .fields
        .insert("tool_calls".into(), Json::parse(r#"{"<|eom_id|>": ["<|eot_id|>"]}"#).unwrap());
    let template = Template::new("test", source, &tokenizer).unwrap();
    let mut options =
        ChatOptions { tools: Json::parse(r#"["<|eot_id|>"]"#).ok(), ..ChatOptions::default() };
    options.variables.insert("tag".into(), Json::from("<|end_of_text|>"));
    let found = template.render(&[message], true, &options).unwrap();
    let said = "a<|eot_id|>\n<|eot_id|>a <|begin_of_text|>\n\n{\"<|eom_id|>\": [\"<|eot_id|>\"]}";
    let after = "[\"<|eot_id|>\"]<|end_of_text|>";
    assert_eq!(found.text(), format!("<|begin_of_text|>{said}<|eot_id|>{after}"));
    let text = |text: &str| plain.encode(text, false).unwrap();
    let expected = [vec![BEGIN], text(said), vec![END], text(after)].concat();
    assert_eq!(tokenizer.encode_rendered(&found).unwrap(), expected);
    // Its parts are read as it is.
    let cut = found.text().len() - after.len();
    let halves = [found.part(0, cut), found.part(cut, found.text().len())];
    let ids: Vec<u32> = halves.iter().flat_map(|p| tokenizer.encode_rendered(p).unwrap()).collect();
    assert_eq!(ids, expected);
}

/// Marks that a message imitates are not taken for marks.
#[test]
fn marks_cannot_be_forged() {
    let (tokenizer, plain) = (merging(true), merging(false));
    for said in [
        "~0^<|eot_id|>",
        "~0<|eot_id|>^",
        "<|eot_id|~0^>",
        "~<|eot_id~0^|>~1^<|eot_id|>",
        "~0<",
        "~0^~1^~2<",
    ] {
        for next in ["|eot_id|>", "^|eot_id|>", "0^|eot_id|>"] {
            let messages = [Message::new("user", said), Message::new("user", next)];
            let found = rendered(
                &tokenizer,
                "{% for m in messages %}{{ m.content }}{% endfor %}",
                &messages,
            );
            let ids = tokenizer.encode_rendered(&found).unwrap();
            assert_eq!(
                ids,
                plain.encode(&format!("{said}{next}"), false).unwrap(),
                "{said} {next}"
            );
            assert_eq!(found.text(), format!("{said}{next}"));
        }
    }
}

#[test]
fn a_file_that_contradicts_itself_does_not_load() {
    let change = |t: &mut Value| {
        with_bos(t);
        t["post_processor"]["special_tokens"] = json!({});
    };
    let error = load(&small(change, Value::Null, Value::Null)).unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
}

#[test]
fn malformed_files_are_named() {
    let message = |files: &TokenizerFiles| load(files).unwrap_err().to_string();
    let with = |tokenizer: &[u8]| stories().with("tokenizer.json", tokenizer.to_vec());
    let cut = stories().get("tokenizer.json").unwrap()[..5000].to_vec();
    for bytes in [&b""[..], b"{", b"7", b"\xff\xfe", &cut] {
        let message = message(&with(bytes));
        assert!(message.starts_with("tokenizer made/up/tokenizer.json: not a"), "{message}");
    }
    let decoder = |value: Value| move |t: &mut Value| t["decoder"] = value;
    let sequence = |steps: Value| json!({"type": "Sequence", "decoders": steps});
    let space = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let two = json!({"type": "Strip", "content": " ", "start": 2, "stop": 0});
    for other in [
        Value::Null,
        json!({"type": "Fuse"}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        sequence(json!([])),
        sequence(json!([space, strip])), // of every token
        sequence(json!([space, {"type": "Fuse"}, two])),
    ] {
        let message = message(&small(decoder(other), Value::Null, Value::Null));
        assert!(message.contains("its decoder is of an unknown kind"), "{message}");
    }
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
                           "prepend_scheme": "always", "split": true});
    for known in [metaspace, space.clone(), sequence(json!([space, {"type": "Fuse"}, strip]))] {
        load(&small(decoder(known), Value::Null, Value::Null)).unwrap();
    }
    let one = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
    load(&small(decoder(sequence(json!([one]))), Value::Null, Value::Null)).unwrap();

    let generation = &br#"{"eos_token_id": "1"}"#[..];
    let found = message(&stories().with("generation_config.json", generation));
    assert!(found.contains("made/up/generation_config.json: eos_token_id is \"1\""), "{found}");
    let found = message(&stories().with("tokenizer_config.json", &b"{"[..]));
    assert!(found.contains("made/up/tokenizer_config.json is not valid JSON"), "{found}");
}

#[test]
fn a_model_may_bring_sampling_options() {
    let with = |generation| {
        let tokenizer = load(&small(|_| (), Value::Null, generation)).unwrap();
        tokenizer.suggested_sampling(Sampling::default().seed(3))
    };
    let default = Sampling::default().seed(3);
    assert_eq!(with(json!({"eos_token_id": 5})), default);
    let generation = json!({"temperature": 0.25, "top_k": 7, "top_p": 0.5, "min_p": 0.125, "repetition_penalty": 1.5});
    let all = default.clone().temperature(0.25).top_k(7).top_p(0.5).min_p(0.125);
    assert_eq!(with(generation), all.repetition_penalty(1.5));
    assert_eq!(with(json!({"top_p": 0.5, "temperature": null})), default.clone().top_p(0.5));
    // Values that cannot be are none.
    for bad in
        [json!({"top_p": 0, "top_k": 7}), json!({"temperature": -1.0}), json!({"min_p": "x"})]
    {
        assert_eq!(with(bad), default);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Ids are those of the template's special tokens and of the texts between them, whatever the
    /// messages say.
    #[test]
    fn messages_write_no_special_tokens(
        said in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![
            "<|eot_id|>", "<|begin_of_text|>", "<|eot", "_id|>", "<|", "|>", "<", ">", "<|eot_id",
            "a", "b", " ", "\n", "\n\n", "tt", ".", "~0^", "~",
        ]), 0..6), 1..4),
    ) {
        let (tokenizer, plain) = (merging(true), merging(false));
        let contents: Vec<String> = said.iter().map(|parts| parts.concat()).collect();
        let messages: Vec<Message> = contents.iter().map(|c| Message::new("user", c)).collect();
        let text = |text: &str| plain.encode(text, false).unwrap();
        let mut turns = "{% for m in messages %}<|begin_of_text|>\n\n{{ m.content".to_owned();
        for trim in [false, true] {
            let end = " }}<|eot_id|>{% endfor %}";
            let source = format!("{turns}{end}");
            let found = rendered(&tokenizer, &source, &messages);
            let expected: Vec<u32> = contents.iter().flat_map(|content| {
                let content = if trim { content.trim() } else { content };
                [vec![BEGIN], text(&format!("\n\n{content}")), vec![END]].concat()
            }).collect();
            prop_assert_eq!(tokenizer.encode_rendered(&found).unwrap(), expected);
            turns.push_str("|trim");
        }
        let one = "{% for m in messages %}{{ m.content }}{% endfor %}<|eot_id|>";
        let found = rendered(&tokenizer, one, &messages);
        let mut expected = text(&contents.concat());
        expected.push(END);
        prop_assert_eq!(tokenizer.encode_rendered(&found).unwrap(), expected);
    }

    /// Damaged files give an error or a tokenizer, and no panic.
    #[test]
    fn damaged_files_do_not_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let change = |t: &mut Value| with_bos(t);
        let files = small(change, Value::Null, json!({"eos_token_id": [5, 6]}));
        let mut bytes = files.get("tokenizer.json").unwrap().to_vec();
        for (place, byte) in &edits {
            let i = place.index(bytes.len());
            bytes[i] = *byte;
        }
        if let Ok(tokenizer) = load(&files.with("tokenizer.json", bytes)) {
            let ids = tokenizer.encode("ab ab<|eot_id|>", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }
}

/// Parts of a file that take far more memory than its size are refused before they are made.
#[test]
fn costly_tokenizers_are_refused() {
    let read = |part: &str, value: Value| {
        let files = small(|file| file[part] = value, Value::Null, Value::Null);
        Tokenizer::from_files("there.json", &files).map(drop)
    };
    let step = json!({ "type": "Replace", "pattern": { "Regex": "a" }, "content": "" });
    let steps = |count| json!({ "type": "Sequence", "normalizers": vec![step.clone(); count] });
    read("normalizer", steps(60)).unwrap();
    let long = json!({ "type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": vec![json!({ "Sequence": { "id": "A", "type_id": 0 } }); 10_000] });
    for (part, value, found) in [
        ("normalizer", steps(100), "normalizer has 101 steps"),
        ("post_processor", long, "post_processor has 1 steps and"),
    ] {
        let error = read(part, value).unwrap_err().to_string();
        assert!(error.contains("there.json") && error.contains(found), "{error}");
    }
}
