#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use super::Detokenizer;
use crate::Tokenizer;
use proptest::prelude::*;

static STORIES: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llamba-stories")).unwrap()
});

/// Every piece of the stream, the flushed end last.
fn pieces(ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(&STORIES, skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    pieces.push(detokenizer.flush());
    pieces
}

/// The id of the token that is this one byte.
fn byte_id(byte: u8) -> u32 {
    let mut bytes = Vec::new();
    let found = (0..4096).find(|&id| {
        bytes.clear();
        STORIES.push_bytes(id, false, &mut bytes);
        bytes == [byte]
    });
    found.unwrap()
}

fn byte_ids(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|&byte| byte_id(byte)).collect()
}

#[test]
fn an_emoji_of_four_tokens_comes_with_the_last() {
    let ids = byte_ids("a\u{1f600}b".as_bytes());
    assert_eq!(pieces(&ids, true), ["a", "", "", "", "\u{1f600}", "b", ""]);
}

#[test]
fn bytes_that_are_no_character_come_as_soon_as_that_is_known() {
    // A lone continuation byte; two bytes of an emoji, then a letter; a beginning at the end.
    let ids = byte_ids(b"\x80\xf0\x9fa\xe6\x97");
    let fffd = "\u{fffd}";
    assert_eq!(pieces(&ids, true), [fffd, "", "", "\u{fffd}a", "", "", fffd]);
    assert_eq!(pieces(&ids, true).concat(), STORIES.decode(&ids, true).unwrap());
}

#[test]
fn special_tokens_are_skipped_or_spelled() {
    let ids = [1, byte_id(0xc3), 1, byte_id(0xa9), 99_999];
    assert_eq!(pieces(&ids, true), ["", "", "", "\u{e9}", "", ""]);
    let spelled = pieces(&ids, false).concat();
    assert_eq!(spelled, "<|end_of_text|>\u{fffd}<|end_of_text|>\u{fffd}");
    assert_eq!(spelled, STORIES.decode(&ids, false).unwrap());
}

#[test]
fn every_byte_has_its_token() {
    for byte in 0..=255 {
        let id = byte_id(byte);
        assert_eq!(STORIES.decode(&[id], true).unwrap(), String::from_utf8_lossy(&[byte]));
    }
}

#[test]
fn the_tail_goes_on_where_it_stopped() {
    let ids = byte_ids("日本\u{1f600}".as_bytes());
    let whole = STORIES.decode(&ids, true).unwrap();
    for cut in 0..=ids.len() {
        let mut first = Detokenizer::new(&STORIES, true);
        let mut text: String = ids[..cut].iter().map(|&id| first.push(id)).collect();
        assert!(first.tail().len() <= 3);
        let mut second = Detokenizer::resume(&STORIES, true, first.tail());
        text.extend(ids[cut..].iter().map(|&id| second.push(id)));
        assert_eq!(text, whole);
    }
}

proptest! {
    #[test]
    fn random_ids_stream_as_they_decode(
        ids in prop::collection::vec(prop_oneof![0u32..4200, 0u32..260], 0..60),
        skip_special: bool,
    ) {
        let pieces = pieces(&ids, skip_special);
        prop_assert_eq!(pieces.concat(), STORIES.decode(&ids, skip_special).unwrap());
    }

    #[test]
    fn text_streams_as_it_is(
        text in "([ -~]|\u{1f469}\u{200d}\u{1f4bb}|[\u{4e00}-\u{4e40}]|e\u{301}|\\PC|\n){0,20}",
    ) {
        let ids = STORIES.encode(&text, false).unwrap();
        let pieces = pieces(&ids, true);
        let broken = pieces.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(broken, text.contains(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn a_hostile_tail_does_no_harm(tail: Vec<u8>, ids in prop::collection::vec(0u32..4200, 0..9)) {
        let mut detokenizer = Detokenizer::resume(&STORIES, false, &tail);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text += &detokenizer.flush();
        let mut bytes = tail.clone();
        ids.iter().for_each(|&id| STORIES.push_bytes(id, false, &mut bytes));
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}
