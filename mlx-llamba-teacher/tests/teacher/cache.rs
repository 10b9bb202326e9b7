//! Reading on from a cache is reading all at once.

use mlx_llamba::kernels::Backend;
use mlx_llamba_teacher::{KvCache, Llama, Wanted, Window};
use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::random;

use crate::support::{VARIANTS, assert_close, open};

const LOGITS: Wanted = Wanted { hidden: false, attention: false, logits: true };

/// Logits of all tokens (b, l), read in pieces.
fn in_pieces(llama: &Llama, tokens: &Array, pieces: &[i32]) -> (Array, KvCache) {
    let mut cache = KvCache::default();
    let (mut all, mut start) = (Vec::new(), 0);
    for piece in pieces {
        let part = tokens.try_index((.., start..start + piece)).unwrap();
        let (hidden, next) = llama.hidden(&part, &cache).unwrap();
        all.push(llama.logits(&hidden).unwrap());
        (cache, start) = (next, start + piece);
    }
    (concatenate(&all, 1).unwrap(), cache)
}

fn tokens(llama: &Llama, b: i32, l: i32) -> Array {
    let vocab = llama.config().vocab_size as i32;
    random::randint::<_, u32>(0, vocab, &[b, l][..], &random::key(3).unwrap()).unwrap()
}

#[test]
fn every_cut_gives_the_same() {
    for name in VARIANTS {
        for window in [None, Some(Window { size: 3, sinks: 2 })] {
            let llama = open(name, Backend::PLAIN).with_window(window);
            let tokens = tokens(&llama, 3, 11);
            let whole = llama.trace(&tokens, None, LOGITS).unwrap().logits.unwrap();
            for pieces in [&[11][..], &[1; 11], &[10, 1], &[1, 10], &[4, 1, 3, 1, 2]] {
                let (found, cache) = in_pieces(&llama, &tokens, pieces);
                assert_close(&format!("{name} {window:?} {pieces:?}"), &found, &whole, 1e-5);
                assert_eq!(cache.read(), 11);
            }
        }
    }
}

#[test]
fn the_cache_grows_past_its_first_room() {
    let llama = open("plain", Backend::CPU);
    let tokens = tokens(&llama, 2, 600);
    let whole = llama.trace(&tokens, None, LOGITS).unwrap().logits.unwrap();
    for pieces in [&[255, 1, 1, 255, 88][..], &[256, 344], &[600]] {
        let (found, cache) = in_pieces(&llama, &tokens, pieces);
        assert_close(&format!("{pieces:?}"), &found, &whole, 1e-5);
        let config = llama.config();
        let row = config.num_key_value_heads * config.head_dim * 4;
        assert_eq!(cache.nbytes(), 2 * 2 * config.num_hidden_layers * 768 * row);
    }
}

#[test]
fn a_copy_of_a_cache_goes_its_own_way() {
    let llama = open("linear", Backend::PLAIN);
    let tokens = tokens(&llama, 1, 9);
    let (_, fork) = in_pieces(&llama, &tokens.try_index((.., ..5)).unwrap(), &[5]);
    let next = tokens.try_index((.., 5..)).unwrap();
    let other = Array::from_slice(&[7_u32, 8, 9], &[1, 3]);
    let first = llama.hidden(&next, &fork).unwrap().0;
    llama.hidden(&other, &fork).unwrap().0.eval().unwrap();
    let again = llama.hidden(&next, &fork).unwrap().0;
    assert_close("fork", &again, &first, 0.0);
}

#[test]
fn texts_of_a_ring_are_read_as_if_alone() {
    for name in VARIANTS {
        for window in [None, Some(Window { size: 3, sinks: 2 })] {
            let llama = open(name, Backend::PLAIN).with_window(window);
            let texts = tokens(&llama, 5, 7);
            let token = |(text, at): (i32, i32)| texts.try_index((text..text + 1, at..at + 1));
            // Each row's texts with their lengths, one after the other; together they go more than
            // twice around a room of 7, and the last row leaves after the 9th token.
            let rows =
                [&[(0, 7), (1, 6), (2, 3)][..], &[(3, 2), (4, 7), (0, 7)], &[(1, 4), (3, 5)]];
            let rows = rows.map(|row| {
                let text = |&(text, length): &(i32, i32)| (0..length).map(move |at| (text, at));
                row.iter().flat_map(text).collect::<Vec<_>>()
            });
            let token_of = |row: usize, step: usize| rows[row][step];
            let mut cache = KvCache::ring(3, 7);
            let mut found = Vec::new();
            for step in 0..16 {
                let kept: &[usize] = if step < 9 { &[0, 1, 2] } else { &[1, 0] };
                if step == 9 {
                    cache = cache.rows(&[1, 0]).unwrap();
                }
                for (place, &row) in kept.iter().enumerate() {
                    if token_of(row, step).1 == 0 {
                        cache.begin(place);
                    }
                }
                let read: Vec<Array> =
                    kept.iter().map(|&row| token(token_of(row, step)).unwrap()).collect();
                let read = concatenate(&read, 0).unwrap(); // (b, 1)
                let (hidden, next) = llama.hidden(&read, &cache).unwrap();
                cache = next;
                for (place, &row) in (0..).zip(kept) {
                    found.push((token_of(row, step), hidden.try_index((place, 0, ..)).unwrap()));
                }
            }
            let whole = llama.documents(&texts, None).unwrap();
            assert_eq!(found.len(), 9 * 3 + 7 * 2);
            for ((text, at), hidden) in found {
                let expected = whole.try_index((text, at, ..)).unwrap();
                assert_close(&format!("{name} {window:?} {text} {at}"), &hidden, &expected, 1e-5);
            }
        }
    }
    let llama = open("plain", Backend::CPU);
    let error = llama.hidden(&tokens(&llama, 2, 3), &KvCache::ring(2, 9)).unwrap_err();
    assert!(error.to_string().contains("a token of each at a time, not 3"), "{error}");
}

#[test]
fn a_truncated_cache_has_forgotten_what_came_after() {
    let llama = open("plain", Backend::CPU);
    let tokens = tokens(&llama, 2, 300);
    let part = |from: i32, to: i32| tokens.try_index((.., from..to)).unwrap();
    let read = |cache: &KvCache, from: i32, to: i32| llama.hidden(&part(from, to), cache).unwrap();
    let (_, begun) = read(&KvCache::default(), 0, 7);
    let (expected, _) = read(&begun, 40, 60);
    for (from, to) in [(7, 8), (7, 300)] {
        let (_, longer) = read(&begun, from, to);
        let back = longer.truncated(7);
        assert_eq!(back.read(), 7);
        let (found, after) = read(&back, 40, 60);
        assert_close(&format!("{from}..{to}"), &found, &expected, 0.0);
        assert_eq!(after.read(), 27);
    }
    assert_eq!(begun.truncated(9).read(), 7);
}
