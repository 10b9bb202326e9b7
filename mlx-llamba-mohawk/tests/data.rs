//! Texts to windows.

#![allow(clippy::unwrap_used)]

mod toy;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlx_llamba_mohawk::Result;
use mlx_llamba_mohawk::data::{
    Encoder, Learned, Packing, Part, Position, Sources, Windows, held_out, is_held_out, tokenize,
};
use mlx_rs::Array;
use serde_json::json;
use toy::{corpus, encoder, stories, windows};

fn ids(array: &Array) -> Vec<u32> {
    mlx_llamba::mlx::floats(array).unwrap().iter().map(|&id| id as u32).collect()
}

#[test]
fn documents_are_those_of_the_tokenizer() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let tokenizer = mlx_llamba::Llamba::embedded().load_tokenizer().unwrap();
    let sources = Sources::new(&directory.path().join("stories.jsonl"), "text").unwrap();
    let mut total = 0;
    for (i, text) in sources.texts().enumerate() {
        let text = text.unwrap().text;
        let ids = corpus.document(i);
        let (end, start) = ids.split_last().unwrap();
        assert_eq!(start, tokenizer.encode(&text, true).unwrap());
        assert_eq!(Some(end), tokenizer.eos_ids().first());
        assert_eq!(corpus.text_bytes(i), text.len() as u64);
        total += ids.len() as u64;
        assert_eq!(corpus.start(i + 1), total);
    }
    assert_eq!((corpus.documents(), corpus.tokens()), (9, total));
}

#[test]
fn a_cache_is_used_again_until_something_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = stories(directory.path());
    let cache = directory.path().join("cache");
    let run = |encoder: &Encoder, field: &str| -> Result<(String, bool)> {
        let mut calls = 0;
        let sources = Sources::new(&path, field)?;
        let corpus = tokenize(&sources, encoder, &cache, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })?;
        Ok((corpus.hash().to_owned(), calls > 0))
    };
    let (first, made) = run(&encoder(), "text").unwrap();
    assert!(made);
    assert_eq!(run(&encoder(), "text").unwrap(), (first.clone(), false));
    // Another end of documents, another tokenizer, another text.
    let tokenizer = mlx_llamba::Llamba::embedded().load_tokenizer().unwrap();
    let other = Encoder::new(&tokenizer, "embedded".into(), 4096, None, Some("a")).unwrap();
    let (hash, made) = run(&other, "text").unwrap();
    assert!(made && hash != first);
    let other = Encoder::new(&tokenizer, "renamed".into(), 4096, None, None).unwrap();
    assert_eq!(run(&other, "text").unwrap(), (first.clone(), true));
    let text = std::fs::read_to_string(&path).unwrap().replacen("Anna", "Anne", 1);
    std::fs::write(&path, text).unwrap();
    let (hash, made) = run(&encoder(), "text").unwrap();
    assert!(made && hash != first);
    assert!(run(&encoder(), "story").unwrap_err().to_string().contains("no field \"story\""));
    // Four sound caches, and nothing half made.
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 4);
    assert!(Encoder::new(&tokenizer, String::new(), 4096, Some("<nope>"), None).is_err());
    assert!(Encoder::new(&tokenizer, String::new(), 1000, None, None).is_err());
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let hash = corpus(directory.path()).hash().to_owned();
    let find = || {
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "bin")).collect::<Vec<_>>()
    };
    let [path] = &find()[..] else { unreachable!("one cache") };
    let sound = std::fs::read(path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let n = sound.len();
    let damaged = [
        Vec::new(),
        sound[..n - 1].to_vec(),
        sound[..40].to_vec(),
        flipped(9),
        flipped(n - 12),
        flipped(n - 40),
        flipped(0),
    ];
    for bytes in damaged {
        std::fs::write(path, &bytes).unwrap();
        let error = mlx_llamba_mohawk::data::Corpus::open(path).unwrap_err().to_string();
        assert!(error.contains("tokens-"), "{error}");
        assert_eq!(corpus(directory.path()).hash(), hash);
        assert_eq!(std::fs::read(path).unwrap(), sound);
    }
    assert_eq!(find().len(), 1);
}

#[test]
fn windows_cover_the_text_in_another_order_each_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let l = 11;
    // Every third document is left out.
    let kept: Vec<usize> = (0..9).filter(|&i| !is_held_out(i, 3)).collect();
    let windows = Windows::new(&corpus, kept.iter().copied(), l, true, &[1, 0]).unwrap();
    let stream: Vec<u32> = kept.iter().flat_map(|&i| corpus.document(i)).collect();
    let begins: Vec<usize> = kept
        .iter()
        .scan(0, |at, &i| {
            let begin = *at;
            *at += corpus.document(i).len();
            Some(begin)
        })
        .collect();
    assert_eq!(windows.tokens(), stream.len() as u64);
    let mut position = Position::default();
    let mut epochs: Vec<Vec<usize>> = Vec::new();
    while position.epoch < 3 {
        let (batch, after) = windows.batch(position, 1).unwrap();
        let (tokens, next) = (ids(&batch.tokens), ids(&batch.next));
        let fits =
            |at: &usize| stream[*at..].starts_with(&tokens) && stream[at + 1..].starts_with(&next);
        let starts = ids(&batch.starts.unwrap());
        let same = |at: &usize| (0..l).all(|i| (starts[i] == 1) == begins.contains(&(at + i)));
        let at = (0..stream.len() - l).find(|at| fits(at) && same(at)).unwrap();
        epochs.resize(after.epoch as usize + 1, Vec::new());
        epochs[after.epoch as usize].push(at);
        position = after;
    }
    for epoch in &mut epochs[..3] {
        let order = epoch.clone();
        epoch.sort_unstable();
        assert_ne!(&order, epoch);
        // One after the other, and no room for another.
        assert!(epoch.windows(2).all(|pair| pair[1] == pair[0] + l), "{epoch:?}");
        assert!(epoch[0] < l && stream.len() - 1 - epoch.last().unwrap() < 2 * l);
    }
    assert!(epochs[0] != epochs[1] || epochs[1] != epochs[2]);
}

#[test]
fn batches_are_the_same_from_any_position_and_at_any_size() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    for packing in [Packing::Cut, Packing::Sink, Packing::Documents] {
        let all = |rows: usize| {
            // Each position is read with windows made anew.
            let (mut position, mut tokens) = (Position::default(), Vec::new());
            for _ in 0..60 / rows {
                let windows = windows(&corpus, 9).packing(packing);
                let (batch, after) = windows.batch(position, rows).unwrap();
                assert_eq!(batch.tokens.shape(), [rows as i32, 9]);
                tokens.extend(ids(&batch.tokens));
                position = serde_json::from_value(json!(after)).unwrap();
            }
            (tokens, position)
        };
        let (one, three) = (all(1), all(3));
        assert!(one.1.epoch > 0, "{:?}", one.1);
        assert_eq!(one, three);
    }
}

#[test]
fn a_sink_stands_before_windows_within_documents() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let l = 9;
    let (cut, sink) = (windows(&corpus, l), windows(&corpus, l).packing(Packing::Sink));
    let (mut position, mut within) = (Position::default(), 0);
    while position.epoch < 2 {
        let (plain, after) = cut.batch(position, 1).unwrap();
        let (batch, _) = sink.batch(position, 1).unwrap();
        let (tokens, next) = (ids(&plain.tokens), ids(&plain.next));
        let starts = ids(&plain.starts.unwrap());
        let found = (ids(&batch.tokens), ids(&batch.next), ids(&batch.starts.unwrap()));
        if starts[0] == 1 {
            assert_eq!(found, (tokens, next, starts));
        } else {
            within += 1;
            let firsts: Vec<u32> = (0..9).map(|i| corpus.document(i)[0]).collect();
            assert!(firsts.contains(&found.0[0]));
            assert_eq!((&found.0[1..], &found.1[..]), (&tokens[..l - 1], &tokens[..]));
            assert_eq!((found.2[0], &found.2[1..]), (1, &starts[..l - 1]));
        }
        position = after;
    }
    assert!(within > 3);
}

#[test]
fn windows_that_begin_at_documents() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let documents: Vec<Vec<u32>> = (0..9).map(|i| corpus.document(i)).collect();
    // Longer than some documents, shorter than others, and as long as one.
    let lengths: Vec<usize> = documents.iter().map(Vec::len).collect();
    for l in [9, lengths[0], 40] {
        // The parts of each document, which no other document shares.
        let mut parts: Vec<Vec<u32>> = Vec::new();
        for document in &documents {
            let (first, rest) = document.split_at(document.len().min(l));
            parts.push(first.to_vec());
            parts.extend(rest.chunks(l - 1).map(|part| [&document[..1], part].concat()));
        }
        let windows = windows(&corpus, l).packing(Packing::Documents);
        let mut position = Position::default();
        let mut orders: Vec<Vec<usize>> = vec![Vec::new(); 4];
        while position.epoch < 3 {
            let (batch, after) = windows.batch(position, 1).unwrap();
            let mut all = ids(&batch.tokens);
            all.push(*ids(&batch.next).last().unwrap());
            assert_eq!(all[1..], ids(&batch.next));
            let starts = ids(&batch.starts.unwrap());
            assert_eq!(starts[0], 1);
            let mut begins: Vec<usize> = (0..l).filter(|&i| starts[i] == 1).collect();
            begins.push(l);
            for pair in begins.windows(2) {
                let found = &all[pair[0]..pair[1]];
                let whole = pair[1] < l;
                let is = |part: &Vec<u32>| {
                    if whole { part == found } else { part.starts_with(found) }
                };
                let part = parts.iter().position(is).unwrap();
                // A short beginning may be that of several parts.
                if whole {
                    orders[after.epoch as usize].push(part);
                }
            }
            position = after;
        }
        for order in &orders[..3] {
            for &part in order {
                // The ends of several documents may be the same.
                let same = parts.iter().filter(|other| **other == parts[part]).count();
                let read = order.iter().filter(|&&other| other == part).count();
                assert!(read <= same, "{l}: no part is read twice in an epoch");
            }
        }
        assert!(orders[0] != orders[1] || orders[1] != orders[2]);
    }
}

/// A file of conversations in both layouts and a text, `times` times.
fn conversations(directory: &Path, times: usize) -> PathBuf {
    let path = directory.join("chats.jsonl");
    let lines = [
        json!({ "messages": [
            { "role": "user", "content": "A story about Anna." },
            { "role": "assistant", "content": "Anna had ten apples." },
            { "role": "user", "content": "And Ben? <|end_of_text|>" },
            { "role": "assistant", "content": "Ben had two." },
        ] }),
        json!({ "conversations": [
            { "from": "human", "value": "A story about Ida." },
            { "from": "gpt", "value": "Ida had a dog." },
        ] }),
        json!({ "text": "No conversation." }),
    ];
    let lines = lines.map(|line| line.to_string() + "\n").concat();
    std::fs::write(&path, lines.repeat(times)).unwrap();
    path
}

#[test]
fn only_responses_are_learned() {
    let directory = tempfile::tempdir().unwrap();
    let path = conversations(directory.path(), 1);
    let tokenizer = mlx_llamba::Llamba::embedded().load_tokenizer().unwrap();
    let sources = Sources::new(&path, "text").unwrap();
    let texts: Vec<_> = sources.texts().map(Result::unwrap).collect();
    let all = encoder();
    let encoder = encoder().learned(Learned::Responses);
    let learned = |i: usize| -> Vec<String> {
        let found = encoder.encode(&texts[i]).unwrap();
        let text = |range: Range<usize>| tokenizer.decode(&found.ids[range], false).unwrap();
        found.learned.into_iter().map(text).collect()
    };
    for (i, expected) in
        [&["Anna had ten apples.", "Ben had two."][..], &["Ida had a dog."]].into_iter().enumerate()
    {
        let found = learned(i);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            // With what ends it.
            assert!(found.trim_start().starts_with(expected), "{found}");
            assert!(found.len() < expected.len() + 20, "{found}");
        }
        let whole = all.encode(&texts[i]).unwrap();
        assert_eq!(whole.learned, std::slice::from_ref(&(0..whole.ids.len())));
        let both = [whole, encoder.encode(&texts[i]).unwrap()];
        let [a, b] = both.map(|encoded| tokenizer.decode(&encoded.ids, false).unwrap());
        assert_eq!(a, b);
    }
    assert_eq!(all.encode(&texts[2]).unwrap(), encoder.encode(&texts[2]).unwrap());
    assert_eq!(texts[1].text, "A story about Ida.\n\nIda had a dog.");

    // Windows say which of the next tokens are part of a response, from the corpus in its file.
    let make = || tokenize(&sources, &encoder, directory.path(), &mut mlx_llamba::progress::ignore);
    make().unwrap();
    let corpus = Rc::new(make().unwrap());
    let plain: Vec<u32> = texts.iter().flat_map(|text| encoder.encode(text).unwrap().ids).collect();
    assert_eq!((0..3).flat_map(|i| corpus.document(i)).collect::<Vec<_>>(), plain);
    let l = corpus.tokens() as usize - 1;
    let (batch, _) =
        Windows::new(&corpus, 0..3, l, true, &[]).unwrap().batch(Position::default(), 2).unwrap();
    let (next, places) = (ids(&batch.next), batch.learned.clone().unwrap());
    let chosen: Vec<u32> = places.iter().map(|&i| next[i as usize]).collect();
    let mut expected = Vec::new();
    for text in &texts {
        let encoded = encoder.encode(text).unwrap();
        expected
            .extend(encoded.learned.iter().flat_map(|range| encoded.ids[range.clone()].to_vec()));
    }
    assert_eq!(chosen, [&expected[..], &expected[..]].concat());
    assert_eq!(batch.count_learned(), chosen.len());
    assert!(
        windows(&toy::corpus(directory.path()), 8)
            .batch(Position::default(), 1)
            .unwrap()
            .0
            .learned
            .is_none()
    );
}

#[test]
fn sources_are_mixed_by_their_weights() {
    let directory = tempfile::tempdir().unwrap();
    let first = corpus(directory.path());
    let sources = Sources::new(&conversations(directory.path(), 30), "text").unwrap();
    let second =
        tokenize(&sources, &encoder(), directory.path(), &mut mlx_llamba::progress::ignore);
    let second = Rc::new(second.unwrap());
    let parts = [
        Part { corpus: Rc::clone(&first), documents: (1..9).collect() },
        Part { corpus: Rc::clone(&second), documents: (0..90).collect() },
    ];
    // Longer than the documents.
    let l = 100;
    let windows = |weights: &[f64]| {
        let windows = Windows::of_parts(&parts, l, true, &[3]).unwrap();
        windows.packing(Packing::Documents).weights(weights)
    };
    // The tokens of documents that begin like those of the second source.
    let openings: Vec<Vec<u32>> = (0..3).map(|i| second.document(i)[..6].to_vec()).collect();
    for share in [0.25, 0.5, 0.8] {
        let windows = windows(&[1.0 - share, share]).unwrap();
        let (batch, _) = windows.batch(Position::default(), 100).unwrap();
        let (tokens, starts) = (ids(&batch.tokens), ids(&batch.starts.unwrap()));
        let (mut of_second, mut now) = (0, false);
        for (i, &start) in starts.iter().enumerate() {
            if start == 1 {
                let rest = &tokens[i..(i + 6).min(i / l * l + l)];
                now = openings.iter().any(|opening| opening.starts_with(rest));
            }
            of_second += usize::from(now);
        }
        let found = of_second as f64 / tokens.len() as f64;
        assert!((found - share).abs() < 0.06, "{share}: {found}");
        let (again, _) = windows.batch(Position::default(), 100).unwrap();
        assert_eq!(ids(&again.tokens), tokens);
    }
    // Both, one after the other, in other packings.
    let all = Windows::of_parts(&parts, l, true, &[3]).unwrap();
    assert_eq!(all.tokens(), first.tokens() - first.start(1) + second.tokens());
    let error = Windows::of_parts(&parts[1..], 1 << 12, true, &[]).unwrap_err().to_string();
    assert!(error.contains("one window needs 4097"), "{error}");
}

#[test]
fn too_little_text_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let corpus = corpus(directory.path());
    let n = corpus.tokens() as usize;
    let windows = |l| Windows::new(&corpus, 0..9, l, false, &[]);
    let error = windows(n).unwrap_err().to_string();
    assert!(
        error.contains(&format!("{n} tokens")) && error.contains(&format!("{}", n + 1)),
        "{error}"
    );
    // The longest there is: the same one every time.
    let whole = windows(n - 1).unwrap();
    let (batch, position) = whole.batch(Position::default(), 2).unwrap();
    assert_eq!((position.epoch, batch.starts.is_none()), (1, true));
    assert_eq!(batch.tokens.shape(), [2, n as i32 - 1]);

    let empty = directory.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    let sources = Sources::new(&empty, "text").unwrap();
    let error = tokenize(&sources, &encoder(), directory.path(), &mut mlx_llamba::progress::ignore)
        .unwrap_err();
    assert!(error.to_string().contains("there is no text"), "{error}");
}

#[test]
fn held_out_documents() {
    let directory = tempfile::tempdir().unwrap();
    let corpus: Rc<_> = corpus(directory.path());
    assert!((0..9).all(|i| !is_held_out(i, 0)) && is_held_out(0, 50) && is_held_out(100, 50));
    let numbers = || (0..9).filter(|&i| is_held_out(i, 4));
    let documents = held_out(&corpus, numbers(), 1 << 20, 1 << 20);
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[1].tokens, corpus.document(4));
    assert_eq!(documents[1].bytes, corpus.text_bytes(4));
    assert_eq!(held_out(&corpus, numbers(), 1, 1 << 20).len(), 1);
    let cut = held_out(&corpus, numbers(), 1 << 20, 5);
    assert_eq!(cut[2].tokens, corpus.document(8)[..5]);
    assert!(cut[2].bytes < corpus.text_bytes(8));
}
