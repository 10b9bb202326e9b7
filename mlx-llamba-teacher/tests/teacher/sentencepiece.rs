//! SentencePiece's tokenizers, as GGUF files and `transformers` have them, against SentencePiece.

use mlx_llamba::Tokenizer;
use mlx_llamba::decode::detokenize::Detokenizer;
use mlx_llamba_teacher::tokenizer_of;
use serde_json::Value;

use crate::support::fixture;

fn of_gguf() -> Tokenizer {
    tokenizer_of(fixture("sentencepiece/tokenizer.gguf")).unwrap()
}

fn of_transformers() -> Tokenizer {
    Tokenizer::open(fixture("sentencepiece")).unwrap()
}

/// Texts with the ids that SentencePiece gives them.
fn cases() -> Vec<(String, Vec<u32>)> {
    let text = std::fs::read_to_string(fixture("sentencepiece/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let ids = |case: &Value| serde_json::from_value(case["ids"].clone()).unwrap();
    cases.iter().map(|case| (case["text"].as_str().unwrap().to_owned(), ids(case))).collect()
}

#[test]
fn texts_become_the_ids_that_sentencepiece_gives() {
    let (gguf, transformers) = (of_gguf(), of_transformers());
    for (text, ids) in cases() {
        assert_eq!(gguf.encode(&text, false).unwrap(), ids, "{text:?}");
        // Those that `transformers` writes put no second space in front of one.
        if !text.starts_with(' ') {
            assert_eq!(transformers.encode(&text, false).unwrap(), ids, "{text:?}");
        }
        let with_bos = [&[1], ids.as_slice()].concat();
        assert_eq!(gguf.encode(&text, true).unwrap(), with_bos);
    }
    assert_eq!((gguf.bos_id(), gguf.eos_ids()), (Some(1), &[2][..]));
    assert_eq!((transformers.bos_id(), transformers.eos_ids()), (Some(1), &[2][..]));
}

#[test]
fn ids_become_the_text_again_whole_and_in_a_stream() {
    for tokenizer in [of_gguf(), of_transformers()] {
        for (text, ids) in cases() {
            let text = text.replace('\u{2581}', " ");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            let mut stream = Detokenizer::new(&tokenizer, true);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            streamed.push_str(&stream.flush());
            assert_eq!(streamed, format!(" {text}"));
        }
    }
}

#[test]
fn special_tokens_are_ids_of_their_own() {
    // SentencePiece knows no special tokens in a text. llama.cpp begins a text after each of them,
    // what `transformers` writes does not.
    for (tokenizer, whole) in [(of_gguf(), "one</s> two"), (of_transformers(), "one</s>two")] {
        let ids = tokenizer.encode("one</s>two", false).unwrap();
        let end = ids.iter().position(|&id| id == 2).unwrap();
        assert_eq!(tokenizer.decode(&ids[..end], true).unwrap(), "one");
        assert_eq!(tokenizer.decode(&ids[end + 1..], true).unwrap(), "two");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), whole);
    }
}

#[test]
fn a_bad_byte_costs_one_character() {
    let tokenizer = of_gguf();
    let byte = |byte: u8| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap();
    let ids: Vec<u32> =
        "\u{1f600}".bytes().chain([0xff]).chain("\u{e9}".bytes()).map(byte).collect();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "\u{1f600}\u{fffd}\u{e9}");
}
