//! Reading on from a cache is reading all at once.

use mlx_llamba::Backend;
use mlx_llamba_mohawk::teacher::{KvCache, Llama, Wanted, Window};
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
            let llama = open(name, Backend::Plain).with_window(window);
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
    let llama = open("plain", Backend::Cpu);
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
    let llama = open("linear", Backend::Plain);
    let tokens = tokens(&llama, 1, 9);
    let (_, fork) = in_pieces(&llama, &tokens.try_index((.., ..5)).unwrap(), &[5]);
    let next = tokens.try_index((.., 5..)).unwrap();
    let other = Array::from_slice(&[7_u32, 8, 9], &[1, 3]);
    let first = llama.hidden(&next, &fork).unwrap().0;
    llama.hidden(&other, &fork).unwrap().0.eval().unwrap();
    let again = llama.hidden(&next, &fork).unwrap().0;
    assert_close("fork", &again, &first, 0.0);
}
