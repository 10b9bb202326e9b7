//! Texts that a teacher writes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_llamba::decode::detokenize::Detokenizer;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::{Error as Llamba, Generation, Message, Reason, Sampling, Template};
use mlx_llamba_mohawk::synthesize::{Job, Options, Prompt, Writer, Written, prompts, synthesize};
use mlx_llamba_mohawk::{Error, Result};
use mlx_llamba_teacher::Teacher;

/// A file of the teachers' fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba-teacher/tests/fixtures").join(name)
}

const END: u32 = 2;

fn teacher() -> Teacher {
    Teacher::open(fixture("mixed.gguf"), Dtype::Float32, Backend::CPU).unwrap()
}

fn options() -> Options {
    Options::default().seed(5).begin(vec![1]).ends(vec![END]).length(24).batch(5)
}

fn beginnings(teacher: &Teacher) -> Vec<Prompt> {
    let tokenizer = teacher.tokenizer().unwrap();
    ["The boats", "a", "boats boats boats"].map(|t| Prompt::text(t, tokenizer).unwrap()).to_vec()
}

fn group(teacher: &Teacher, prompts: &[Prompt], options: &Options, number: u64) -> Vec<Written> {
    let tokenizer = teacher.tokenizer().unwrap();
    let writer = Writer::new(teacher.llama(), tokenizer, prompts, options.clone()).unwrap();
    writer.group(number, u64::MAX, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn likeliest_texts_are_those_of_one_text_at_a_time() {
    let teacher = teacher();
    let prompts = beginnings(&teacher);
    // A token that the second text comes to, as its end: rows leave the batch at different times.
    let long = |prompt: &Prompt, eos: Vec<u32>| {
        let ids = [&[1], &prompt.ids[..]].concat();
        let most = 24 - ids.len();
        let options = Generation::greedy().max_tokens(most).eos(eos);
        (ids.len(), teacher.generate(&ids[..], &options).unwrap())
    };
    let end = long(&prompts[1], Vec::new()).1.tokens[6];
    let options = options().sampling(Sampling::greedy()).ends(vec![end]);
    for number in [0, 1] {
        let found = group(&teacher, &prompts, &options, number);
        assert_eq!(found.len(), 20);
        let mut ended = 0;
        for (row, written) in found.iter().enumerate() {
            let prompt = &prompts[(20 * number as usize + row) % 3];
            let (read, expected) = long(prompt, vec![end]);
            let mut text = Detokenizer::new(teacher.tokenizer().unwrap(), false);
            // The end token is counted, but is not part of the text.
            let count = expected.tokens.len() - usize::from(written.ended);
            let text: String = expected.tokens[..count].iter().map(|&id| text.push(id)).collect();
            assert_eq!(written.text, prompt.text.clone() + &text, "{number} {row}");
            assert_eq!(written.ended, expected.reason == Reason::Eos(end));
            assert_eq!(written.tokens, read + expected.tokens.len());
            ended += usize::from(written.ended);
        }
        assert!((1..20).contains(&ended), "{found:?}");
    }
}

#[test]
fn seeds_and_numbers_decide() {
    let teacher = teacher();
    let first = group(&teacher, &[], &options(), 3);
    assert_eq!(group(&teacher, &[], &options(), 3), first);
    assert_ne!(group(&teacher, &[], &options(), 4), first);
    assert_ne!(group(&teacher, &[], &options().seed(6), 3), first);
    // Rows draw numbers of their own.
    assert!(first.windows(2).all(|pair| pair[0].text != pair[1].text));
}

#[test]
fn tokens_are_as_frequent_as_the_teacher_says() {
    let teacher = teacher();
    let wide = options().batch(500).length(2).ends(Vec::new());
    let mut counts = std::collections::BTreeMap::new();
    for written in group(&teacher, &[], &wide, 0) {
        *counts.entry(written.text).or_insert(0.0) += 1.0;
    }
    let tokens = mlx_rs::Array::from_slice(&[1_u32], &[1, 1]);
    let hidden = teacher.llama().documents(&tokens, None).unwrap();
    let logits = mlx_llamba::mlx::floats(&teacher.llama().logits(&hidden).unwrap()).unwrap();
    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let mut checked = 0;
    for (id, &logit) in logits.iter().enumerate() {
        let text = teacher.tokenizer().unwrap().decode(&[id as u32], false).unwrap();
        let expected = 2000.0 * f64::from(logit).exp() / total;
        // Half characters have no text of their own.
        if text.is_empty() || text.contains('\u{fffd}') || expected < 12.0 {
            continue;
        }
        let found: f64 = counts.get(&text).copied().unwrap_or(0.0);
        assert!((found - expected).abs() < 5.0 * expected.sqrt(), "{text:?}: {found}, {expected}");
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn a_message_keeps_its_end() {
    let teacher = teacher();
    let tokenizer = teacher.tokenizer().unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}";
    let template = Template::new("test", template, tokenizer).unwrap();
    let messages = [Message::new("user", "The <|im_start|>")];
    let chat = Prompt::chat(&messages, tokenizer, &template).unwrap();
    // Special tokens spelled out in a message stay text.
    assert_eq!(chat.ids.iter().filter(|&&id| id == chat.ids[0]).count(), 1);
    let every: Vec<u32> = (0..277).collect();
    let options = options().ends(every).seed(6);
    let written = group(&teacher, std::slice::from_ref(&chat), &options, 0).swap_remove(0);
    let plain = Prompt { chat: false, ..chat.clone() };
    let shorter = group(&teacher, &[plain], &options, 0).swap_remove(0);
    assert_eq!(shorter.text, chat.text);
    assert!(written.text.len() > chat.text.len() && written.text.starts_with(&chat.text));
    assert_eq!((written.ended, written.tokens), (true, 2 + chat.ids.len()));
}

fn write(
    path: &Path,
    options: &Options,
    tokens: u64,
    resume: bool,
    stop: usize,
) -> Result<mlx_llamba_mohawk::synthesize::Made> {
    let teacher = teacher();
    let job = Job {
        path: &fixture("mixed.gguf"),
        llama: teacher.llama(),
        tokenizer: teacher.tokenizer().unwrap(),
        prompts: &[],
        options: options.clone(),
        tokens,
        output: path,
        resume,
        overwrite: false,
    };
    let mut steps = 0;
    synthesize(&job, &mut |_| {
        steps += 1;
        if steps > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

#[test]
fn a_file_goes_on_where_it_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    let made = write(&path("whole.jsonl"), &options(), 600, false, usize::MAX).unwrap();
    let lines = read("whole.jsonl");
    let values: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(made.texts, values.len() as u64);
    let tokens = values.iter().map(|v| v["tokens"].as_u64().unwrap());
    assert_eq!(made.tokens, tokens.clone().sum::<u64>());
    // The last text is cut where it reaches the number; one cut within its first character is left out.
    assert!((590..=600).contains(&made.tokens), "{made:?}");
    assert_eq!(
        made.bytes,
        values.iter().map(|v| v["text"].as_str().unwrap().len() as u64).sum::<u64>()
    );

    let partial = path("part.jsonl.partial");
    let stopped = write(&path("part.jsonl"), &options(), 600, false, 120).unwrap_err();
    assert!(matches!(stopped, Error::Llamba(Llamba::Interrupted)), "{stopped}");
    let saved = std::fs::read(&partial).unwrap();
    assert!(saved.iter().filter(|&&byte| byte == b'\n').count() > 5);
    // Texts that were complete when it was stopped are there, also of a group that was not.
    let kept: Vec<_> = std::str::from_utf8(&saved).unwrap().lines().skip(1).collect();
    assert_ne!(kept.len() % (4 * options().batch), 0);
    let kept: Vec<_> = kept.into_iter().filter(|line| !line.contains("\"text\":\"\"")).collect();
    assert!(lines.lines().take(kept.len()).eq(kept));
    for cut in [saved.len(), saved.len() - 1, saved.len() - 90] {
        std::fs::write(&partial, &saved[..cut]).unwrap();
        let error = write(&path("part.jsonl"), &options(), 600, false, 60).unwrap_err();
        assert!(matches!(error, Error::RunExists { .. }), "{error}");
        let other = options().seed(6).length(23);
        let error = write(&path("part.jsonl"), &other, 600, true, 60).unwrap_err().to_string();
        assert!(error.contains("length was 24, is 23; seed was 5, is 6"), "{error}");
        let again = write(&path("part.jsonl"), &options(), 600, true, usize::MAX).unwrap();
        assert_eq!((again, read("part.jsonl")), (made, lines.clone()), "{cut}");
        assert!(!partial.exists());
        std::fs::remove_file(path("part.jsonl")).unwrap();
    }
    let error = write(&path("none.jsonl"), &options(), 600, true, 60).unwrap_err().to_string();
    assert!(error.contains("no run to resume"), "{error}");
    let error = write(&path("whole.jsonl"), &options(), 600, false, 60).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
}

#[test]
fn prompts_come_from_lines() {
    let teacher = teacher();
    let tokenizer = teacher.tokenizer().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        prompts(&path, "text", tokenizer)
    };
    let found = read("a.txt", "The\n\n{\"text\": 1}\n").unwrap();
    assert_eq!(found[0], Prompt::text("The", tokenizer).unwrap());
    assert_eq!((found.len(), found[1].text.as_str()), (2, "{\"text\": 1}"));
    // The file's template writes the messages as they are in Python.
    let found =
        read("a.jsonl", "{\"text\": \"b\"}\n{\"messages\": [{\"role\": \"user\"}]}").unwrap();
    assert_eq!((found[0].text.as_str(), found[0].chat), ("b", false));
    assert!(found[1].chat && found[1].text.contains("user"), "{found:?}");
    // A byte order mark, ends of lines as on Windows, and lines that are no Unicode.
    let found = read("a.txt", "\u{feff}The\r\n").unwrap();
    assert_eq!(found, [Prompt::text("The", tokenizer).unwrap()]);
    let found = read("a.jsonl", "\u{feff}{\"text\": \"\\ud83d\"}\n{\"text\": \"b\"}\r\n").unwrap();
    assert_eq!(found.iter().map(|prompt| prompt.text.as_str()).collect::<Vec<_>>(), ["b"]);
    for (text, expected) in [
        ("{\"text\": \"b\"}\n{", "line 2: not JSON"),
        ("{\"x\": 1}", "line 1: it has no field \"text\", and no \"messages\""),
        ("{\"text\": 1}", "is no text"),
        ("{\"messages\": [1]}", "its \"messages\""),
        ("\n", "the beginning of a text"),
    ] {
        let error = read("bad.jsonl", text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("bad.jsonl"), "{error}");
    }
}

#[test]
fn impossible_options_are_refused() {
    let teacher = teacher();
    let prompts = beginnings(&teacher);
    let refused = |prompts: &[Prompt], options: Options| {
        let tokenizer = teacher.tokenizer().unwrap();
        Writer::new(teacher.llama(), tokenizer, prompts, options).err().unwrap().to_string()
    };
    for (options, expected) in [
        (options().batch(0), "batch = 0"),
        (options().length(65), "more than the teacher's context of 64"),
        (options().length(4), "the longest beginning and a token"),
        (options().sampling(Sampling::plain().top_p(2.0)), "top_p"),
    ] {
        let error = refused(&prompts, options);
        assert!(error.contains(expected), "{error}");
    }
    let error = refused(&[], options().begin(Vec::new()));
    assert!(error.contains("name one with --begin"), "{error}");
}
