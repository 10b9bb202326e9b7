#![allow(clippy::unwrap_used)]

use super::StopMatcher;
use proptest::prelude::*;

/// The pieces as they are shown, the text at the end, and the stop string that was hit.
fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops.iter().copied()).unwrap();
    let shown = pieces.iter().map(|piece| matcher.push(piece)).collect();
    (shown, matcher.flush(), matcher.hit())
}

#[test]
fn cuts_before_a_stop_string_spread_over_pieces() {
    let (shown, rest, hit) = run(&["\n\nUser:"], &["Fine.", "\n", "\nUs", "er: more", "?"]);
    assert_eq!(shown, ["Fine.", "", "", "", ""]);
    assert_eq!((rest.as_str(), hit), ("", Some(0)));
}

#[test]
fn gives_back_what_turned_out_not_to_be_a_stop_string() {
    let (shown, rest, hit) = run(&["abac"], &["xab", "ab", "ad", "ab"]);
    assert_eq!(shown, ["x", "ab", "abad", ""]);
    assert_eq!((rest.as_str(), hit), ("ab", None));
}

#[test]
fn the_one_complete_first_wins_and_then_the_longer() {
    assert_eq!(
        run(&["abcde", "bcd"], &["xabcde"]),
        (vec!["xa".to_owned()], String::new(), Some(1))
    );
    assert_eq!(run(&["c", "bc"], &["abc"]), (vec!["a".to_owned()], String::new(), Some(1)));
    assert_eq!(run(&["ab", "abc"], &["abc"]), (vec![String::new()], String::new(), Some(0)));
}

#[test]
fn nothing_passes_after_a_hit_and_everything_without_stop_strings() {
    assert_eq!(run(&["."], &["a.b", "c"]).0, ["a", ""]);
    assert_eq!(run(&[], &["a.", "\u{1f600}"]).0, ["a.", "\u{1f600}"]);
}

#[test]
fn holds_back_part_of_a_stop_string_of_wide_characters() {
    let (shown, rest, hit) = run(&["日本語"], &["x日", "本", "人", "日本", "語"]);
    assert_eq!(shown, ["x", "", "日本人", "", ""]);
    assert_eq!((rest.as_str(), hit), ("", Some(0)));
}

#[test]
fn empty_stop_strings_are_refused() {
    assert!(StopMatcher::new(["a", ""]).is_err());
}

proptest! {
    /// The slow definition: after each character, does the text end with a stop string?
    #[test]
    fn any_split_gives_the_text_before_the_first_complete_stop(
        pieces in prop::collection::vec("[ab\u{e9}]{0,4}", 0..12),
        stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..4),
    ) {
        let text = pieces.concat();
        let mut expected = (text.clone(), None);
        'search: for (i, c) in text.char_indices() {
            let so_far = &text[..i + c.len_utf8()];
            let mut ends: Vec<_> = stops.iter().enumerate().filter(|(_, s)| so_far.ends_with(*s)).collect();
            ends.sort_by_key(|(index, s)| (std::cmp::Reverse(s.len()), *index));
            if let Some((index, stop)) = ends.first() {
                expected = (so_far[..so_far.len() - stop.len()].to_owned(), Some(*index));
                break 'search;
            }
        }
        let mut matcher = StopMatcher::new(stops.iter().cloned()).unwrap();
        let mut found = String::new();
        for piece in &pieces {
            found += &matcher.push(piece);
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            prop_assert!(matcher.held().len() < longest.max(1));
        }
        found += &matcher.flush();
        prop_assert_eq!((found, matcher.hit()), expected);
    }
}
