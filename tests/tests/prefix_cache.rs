//! The prefix cache against the model itself: what it finds is what reading gives.

#![allow(clippy::unwrap_used)]

use mlx_llamba::{Generation, Llamba, PrefixCache, State};
use mlx_llamba_tests::{chat, command::names};

fn read(llamba: &Llamba, tokens: &[u32]) -> State {
    let model = llamba.model();
    let (ids, _) = model.tokens(&[tokens]).unwrap();
    let state = model.hidden(&ids, None, &model.state(1).unwrap()).unwrap().1;
    state.eval().unwrap();
    state
}

fn numbers(state: &State) -> Vec<Vec<f32>> {
    state.tensors(0).unwrap().into_iter().map(|tensor| tensor.values).collect()
}

/// A text of few tokens.
fn text(i: u32) -> Vec<u32> {
    vec![i, 1, 2, 3]
}

/// A text that begins with it.
fn query(i: u32) -> Vec<u32> {
    [text(i), vec![9]].concat()
}

/// Token sequences with many common beginnings.
fn texts() -> Vec<Vec<u32>> {
    let text = |seed: u32, length: u32| (0..length).map(|i| (i * seed) % 251).collect();
    let mut all: Vec<Vec<u32>> = vec![text(7, 5), text(7, 20), text(7, 21), text(3, 9)];
    all.push([text(7, 20), text(5, 6)].concat());
    all.push([text(7, 5), text(5, 2)].concat());
    all
}

#[test]
fn the_longest_known_beginning_is_found() {
    let llamba = chat::load(1);
    let model = llamba.model();
    let mut cache = PrefixCache::new(model, 1 << 20);
    let texts = texts();
    for text in &texts {
        cache.insert(text, &read(&llamba, text)).unwrap();
        cache.insert(text, &read(&llamba, text)).unwrap();
    }
    assert_eq!(cache.stats().entries, texts.len());
    for base in &texts {
        for cut in 0..=base.len() {
            for more in [&[][..], &[9], &[4, 4]] {
                let query = [&base[..cut], more].concat();
                let known = texts.iter().filter(|t| t.len() < query.len() && query.starts_with(t));
                let expected = known.map(Vec::len).max();
                let hit = cache.find(model, &query).unwrap();
                assert_eq!(hit.as_ref().map(|hit| hit.length), expected, "{query:?}");
                if let Some(hit) = hit {
                    assert_eq!(numbers(&hit.state), numbers(&read(&llamba, &query[..hit.length])));
                }
            }
        }
    }
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.misses > 0 && stats.tokens > stats.hits);
    // Another model's texts are unknown.
    let other = chat::load(2);
    assert!(cache.find(other.model(), &texts[1]).unwrap().is_none());
    cache.clear();
    assert!(cache.find(model, &texts[1]).unwrap().is_none());
    assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
}

#[test]
fn the_least_recently_used_goes_first() {
    let llamba = chat::load(1);
    let model = llamba.model();
    let size = read(&llamba, &text(0)).nbytes();
    let mut cache = PrefixCache::new(model, 3 * size + size / 2);
    let known = |cache: &mut PrefixCache, i: u32| cache.find(model, &query(i)).unwrap().is_some();
    for i in 0..3 {
        cache.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    assert!(known(&mut cache, 0));
    cache.insert(&text(3), &read(&llamba, &text(3))).unwrap();
    assert!(known(&mut cache, 0) && !known(&mut cache, 1) && known(&mut cache, 2));
    assert!(cache.stats().bytes <= 3 * size && cache.stats().evictions == 1);
    // No room at all.
    let mut none = PrefixCache::new(model, size - 1);
    none.insert(&text(0), &read(&llamba, &text(0))).unwrap();
    assert!(!known(&mut none, 0));
    none.insert(&[], &read(&llamba, &text(0))).unwrap();
}

#[test]
fn a_directory_keeps_them_and_damage_is_a_miss() {
    let llamba = chat::load(1);
    let model = llamba.model();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("cache");
    let size = read(&llamba, &text(0)).nbytes();
    let open = |disk| PrefixCache::new(model, 2 * size).with_directory(&place, disk).unwrap();

    let mut cache = open(1 << 20);
    for i in 0..5 {
        cache.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    // Those that had to leave the memory are found on the disk.
    let hit = cache.find(model, &query(0)).unwrap().unwrap();
    assert_eq!(numbers(&hit.state), numbers(&read(&llamba, &text(0))));
    // A crash loses what is in memory, and nothing else.
    let kept = names(&place);
    assert!(kept.len() == 4 || kept.len() == 3, "{kept:?}");
    drop(cache);
    std::fs::write(place.join("something.else"), "x").unwrap();
    let mut cache = open(1 << 20);
    assert_eq!(cache.stats().disk_entries, kept.len());
    for i in 0..5 {
        cache.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    cache.flush().unwrap();
    cache.flush().unwrap();
    let mut again = open(1 << 20);
    assert_eq!(again.stats().disk_entries, 5);

    let mut found = 0;
    for (i, name) in names(&place).into_iter().filter(|name| name.ends_with(".prefix")).enumerate()
    {
        let file = place.join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() * (i + 1) / 6;
        bytes[at] ^= 4;
        if i == 4 {
            bytes.truncate(at);
        }
        std::fs::write(&file, bytes).unwrap();
    }
    for i in 0..5 {
        found += usize::from(again.find(model, &query(i)).unwrap().is_some());
    }
    assert_eq!((found, again.stats().disk_entries), (0, 0));
    assert_eq!(names(&place), ["something.else"]);

    // Within its budget.
    cache.clear();
    let mut small = open(3 * (size as u64 + 2048));
    for i in 0..9 {
        small.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    small.flush().unwrap();
    let stats = small.stats();
    assert!(stats.disk_bytes <= 3 * (size as u64 + 2048) && stats.disk_entries >= 2, "{stats:?}");
    assert!(small.find(model, &query(8)).unwrap().is_some());
}

/// A disk that takes nothing is no reason to fail: the states are forgotten.
#[test]
fn a_disk_that_is_full_harms_nobody() {
    let llamba = chat::load(1);
    let model = llamba.model();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("cache");
    let size = read(&llamba, &text(0)).nbytes();
    let mut cache = PrefixCache::new(model, 2 * size).with_directory(&place, 1 << 20).unwrap();
    for i in 0..3 {
        cache.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    assert_eq!(cache.stats().disk_entries, 1);
    // Nothing can be written where there is no directory.
    std::fs::remove_dir_all(&place).unwrap();
    for i in 3..6 {
        cache.insert(&text(i), &read(&llamba, &text(i))).unwrap();
    }
    let known: Vec<bool> =
        (0..6).map(|i| cache.find(model, &query(i)).unwrap().is_some()).collect();
    assert_eq!(known, [false, false, false, false, true, true]);
    assert!(cache.stats().bytes <= 2 * size);
    assert!(cache.flush().is_err());
}

/// A turn of a conversation ends in a place that the next request begins with.
#[test]
fn conversations_are_found_again() {
    let llamba = chat::load(1);
    let mut cache = PrefixCache::new(llamba.model(), 1 << 20);
    let mut session = llamba.session().unwrap();
    session.push_user("hello");
    let options = Generation::greedy().max_tokens(6);
    session.reply(&options).unwrap().for_each(|event| drop(event.unwrap()));
    let tokens = session.tokens();
    let read = session.context().read() as usize;
    cache.insert(&tokens[..read], session.context().state()).unwrap();
    let hit = cache.find(llamba.model(), &tokens).unwrap().unwrap();
    assert_eq!(hit.length, tokens.len() - 1);
}
