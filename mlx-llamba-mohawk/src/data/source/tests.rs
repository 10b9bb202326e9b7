#![allow(clippy::unwrap_used)]

use super::*;

fn texts(path: &Path, field: &str) -> Result<Vec<String>> {
    Sources::new(path, field)?.texts().map(|text| Ok(text?.text)).collect()
}

#[test]
fn files_and_directories() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    let lines =
        write("b/lines.JSONL", "{\"t\": \"one\"}\n\n{\"x\": 1, \"t\": \"\"}\n{\"t\":\"3\"}");
    write("a.txt", "all\nof it\n");
    write("c.md", "# c");
    write(".hidden.txt", "no");
    write("d.bin", "no");
    let found = texts(directory.path(), "t").unwrap();
    assert_eq!(found, ["all\nof it\n", "one", "", "3", "# c"]);
    assert_eq!(texts(&lines, "t").unwrap(), ["one", "", "3"]);
    // Named, any file is a text.
    assert_eq!(texts(&directory.path().join("d.bin"), "t").unwrap(), ["no"]);
    let sources = Sources::new(directory.path(), "t").unwrap();
    let ends: Vec<u64> = sources.texts().map(|text| text.unwrap().end).collect();
    assert_eq!(ends, [10, 23, 42, 51, 54]);
    assert_eq!(sources.bytes(), 54);
}

#[test]
fn lines_that_are_no_unicode_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.jsonl");
    let mut bytes = b"\xef\xbb\xbf{\"text\": \"a\"}\n".to_vec();
    bytes.extend(b"{\"text\": \"lone \\ud83d half\"}\n");
    bytes.extend(b"{\"text\": \"caf\xe9\"}\n");
    bytes.extend(b"{\"text\": \"\\ud83d\\ude00 \\\\ud83d\"}\n");
    bytes.extend(b"{\"text\": \"\\udc00\", \"n\": [1, 2.5, \"\\n\"]}\n{\"text\": \"b\"}");
    fs::write(&path, bytes).unwrap();
    assert_eq!(texts(&path, "text").unwrap(), ["a", "\u{1f600} \\ud83d", "b"]);
    // Python writes numbers that are not JSON.
    fs::write(&path, "{\"text\": \"a\", \"score\": NaN}\n{\"text\": \"b\", \"x\": -Infinity}")
        .unwrap();
    assert_eq!(texts(&path, "text").unwrap(), ["a", "b"]);
    // A line that is no JSON is an error, with a surrogate too.
    fs::write(&path, "{\"text\": \"\\ud83d\"").unwrap();
    assert!(texts(&path, "text").unwrap_err().to_string().contains("not JSON"));
    let text = directory.path().join("x.txt");
    fs::write(&text, "\u{feff}a").unwrap();
    assert_eq!(texts(&text, "text").unwrap(), ["a"]);
}

#[test]
fn lists_of_documents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.json");
    for (text, expected) in [
        (
            "\u{feff}[{\"text\": \"a\", \"x\": NaN},\n {\"text\": \"b\"}, \"c\"]",
            &["a", "b", "c"][..],
        ),
        ("{\"text\":\n \"a\"}", &["a"]),
        ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", &["a", "b"]),
        ("[]", &[]),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(texts(&path, "text").unwrap(), expected);
    }
    for (text, part) in [
        ("[{\"text\": \"a\"}, {\"t\": 1}]", "item 2: it has no field"),
        ("[{\"text\": 1}]", "item 1: its field"),
        ("[{\"text\": \"a\"]", "not JSON"),
        ("[{\"text\": \"\\ud83d\"}]", "one object per line"),
    ] {
        fs::write(&path, text).unwrap();
        let error = texts(&path, "text").unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("x.json"), "{error}");
    }
    // Other .json files of a directory are no documents.
    fs::write(directory.path().join("a.txt"), "a").unwrap();
    assert_eq!(texts(directory.path(), "text").unwrap(), ["a"]);
}

#[test]
fn a_single_text_is_cut_into_documents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("book.txt");
    let paragraph = |i: usize| format!("Chapter {i}. {}\n\n", "It was a day. ".repeat(20));
    let book: String = (0..400).map(paragraph).collect();
    fs::write(&path, &book).unwrap();
    let split = || Sources::new(&path, "text").unwrap().split();
    let found: Vec<Text> = split().texts().map(Result::unwrap).collect();
    assert_eq!(found.iter().map(|piece| piece.text.as_str()).collect::<String>(), book);
    assert!((80..=100).contains(&found.len()), "{}", found.len());
    assert!(found.iter().all(|piece| piece.text.starts_with("Chapter")));
    assert_eq!(found.last().unwrap().end, book.len() as u64);
    // One long paragraph, a short text, and texts among others.
    fs::write(&path, "a line\n".repeat(4000)).unwrap();
    assert!(split().texts().count() > 4);
    fs::write(&path, "short\n\ntext").unwrap();
    assert_eq!(split().texts().count(), 1);
    fs::write(directory.path().join("other.txt"), &book).unwrap();
    let both = Sources::new(directory.path(), "text").unwrap().split();
    assert_eq!(both.texts().count(), 2);
}

#[test]
fn bad_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.jsonl");
    for (text, parts) in [
        ("{\"text\": \"a\"}\n{\"text\": 5}", &["line 2", "is no text"][..]),
        ("{\"text\": \"a\"}\n\n{\"prompt\": \"b\"}", &["line 3", "no field \"text\""]),
        ("{\"text\": \"a\"", &["line 1", "not JSON"]),
        ("[1]", &["line 1", "no field"]),
    ] {
        fs::write(&path, text).unwrap();
        let error = texts(&path, "text").unwrap_err().to_string();
        for part in parts.iter().chain(&["x.jsonl"]) {
            assert!(error.contains(part), "{error}");
        }
    }
    let path = directory.path().join("latin.txt");
    fs::write(&path, b"caf\xe9").unwrap();
    let error = texts(&path, "text").unwrap_err().to_string();
    assert!(error.contains("byte 3 is no UTF-8"), "{error}");
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(texts(&empty, "text").unwrap_err().to_string().contains("no .jsonl"));
    let error = texts(&directory.path().join("none"), "text").unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
}
