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
fn padded_texts_are_read_as_if_alone() {
    let lengths = [5, 9, 2, 9];
    for name in VARIANTS {
        for window in [None, Some(Window { size: 3, sinks: 2 })] {
            let llama = open(name, Backend::PLAIN).with_window(window);
            let texts = tokens(&llama, 4, 12);
            let own = |row: usize| {
                let row = row as i32;
                texts.try_index((row..row + 1, ..)).unwrap() // (1, 12)
            };
            let padded: Vec<Array> = (0..4)
                .map(|row| {
                    let fill = Array::from_slice(
                        &[7_u32; 9][lengths[row]..],
                        &[1, 9 - lengths[row] as i32],
                    );
                    let start = own(row).try_index((.., ..lengths[row] as i32)).unwrap();
                    concatenate(&[fill, start], 1).unwrap() // (1, 9)
                })
                .collect();
            let cache = KvCache::padded(&lengths.map(|length| 9 - length));
            let (hidden, cache) = llama.hidden(&concatenate(&padded, 0).unwrap(), &cache).unwrap();
            // The first text goes; the others go on, in another order.
            let kept = [3_u32, 1, 2];
            let cache = cache.rows(&kept).unwrap();
            let next: Vec<Array> = kept
                .iter()
                .map(|&row| {
                    let at = lengths[row as usize] as i32;
                    own(row as usize).try_index((.., at..at + 2)).unwrap()
                })
                .collect();
            let (after, cache) = llama.hidden(&concatenate(&next, 0).unwrap(), &cache).unwrap();
            assert_eq!(cache.read(), 11);
            for (place, &row) in kept.iter().enumerate() {
                let (row, place) = (row as usize, place as i32);
                let length = lengths[row] as i32;
                let alone = own(row).try_index((.., ..length + 2)).unwrap();
                let whole = llama.documents(&alone, None).unwrap();
                let before = hidden.try_index((row as i32, 9 - length.., ..)).unwrap();
                let found = concatenate(&[before, after.try_index((place, .., ..)).unwrap()], 0);
                let expected = whole.try_index(0).unwrap();
                assert_close(&format!("{name} {window:?} {row}"), &found.unwrap(), &expected, 1e-5);
            }
        }
    }
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
