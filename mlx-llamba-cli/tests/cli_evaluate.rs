//! `mlx-llamba perplexity`, `compare` and `eval`: results computed from logits.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

use mlx_llamba::Llamba;
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba_tests::command::Cli;
use mlx_llamba_tests::tiny::Tiny;
use serde_json::{Value, json};
use tempfile::TempDir;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
const STORIES: [&str; 6] = [
    "Once upon a time, there was a little girl named Lily. She liked to play with her red ball.",
    "Tom saw a big dog. The dog was brown and very happy.",
    "",
    "\"Look, Mom!\" said Ben. \"I made a cake.\" His mom smiled and they ate it together.",
    "One day it rained. Sue stayed at home and read a book — it was fun!",
    "The end.",
];

/// Files of a test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn lines<T: Into<Value>>(&self, name: &str, lines: impl IntoIterator<Item = T>) -> String {
        let lines = lines.into_iter().map(|line| line.into().to_string() + "\n");
        self.write(name, lines.collect::<String>())
    }
}

fn stories(files: &Files, name: &str, numbers: impl IntoIterator<Item = usize>) -> String {
    files.lines(name, numbers.into_iter().map(|i| json!({ "story": STORIES[i] })))
}

fn teacher() -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba-teacher/tests");
    tests.join("fixtures/mixed.gguf").display().to_string()
}

fn run(arguments: &[&str]) -> Value {
    serde_json::from_str(&CLI.ok(&[arguments, &["--json"]].concat())).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn close(found: &Value, expected: f64) {
    let found = number(found);
    assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found}, not {expected}");
}

/// Computes the negative log-likelihood of each token but the first, by one forward pass.
fn losses(llamba: &Llamba, ids: &[u32]) -> Vec<f64> {
    let model = llamba.model();
    let (tokens, _) = model.tokens(&[ids]).unwrap();
    let (logits, _) = model.forward(&tokens, None, &model.state(1).unwrap()).unwrap();
    let logits = floats(&logits).unwrap();
    let rows = logits.chunks(model.config().padded_vocab());
    let loss = |(row, next): (&[f32], &u32)| {
        let row: Vec<f64> =
            row[..model.config().vocab_size].iter().map(|&x| f64::from(x)).collect();
        row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*next as usize]
    };
    rows.zip(&ids[1..]).map(loss).collect()
}

#[test]
fn a_text_is_predicted_as_its_logits_say() {
    let files = Files::new();
    let text = STORIES.join("\n\n") + " ";
    let file = files.write("text", &text);
    let llamba = Llamba::embedded().load().unwrap();
    let ids = llamba.tokenizer().unwrap().encode(&text, true).unwrap();
    let losses = losses(&llamba, &ids);
    let nats: f64 = losses.iter().sum();
    let found = run(&["perplexity", &file]);
    assert_eq!(found["tokens"], ids.len() - 1);
    assert_eq!((&found["bytes"], &found["documents"]), (&text.len().into(), &1.into()));
    close(&found["perplexity"]["value"], (nats / losses.len() as f64).exp());
    close(&found["nats_per_token"]["value"], nats / losses.len() as f64);
    close(&found["bits_per_byte"]["value"], nats / 2f64.ln() / text.len() as f64);
    assert!(number(&found["perplexity"]["error"]) > 0.0);
    assert!(found["perplexity"]["document_error"].is_null());
    assert!(number(&found["tokens_per_second"]) > 0.0);
    assert_eq!((&found["model"], &found["text"]), (&"llamba-stories".into(), &file.into()));

    // From a pipe, and as text.
    let piped = CLI.with_input(&["perplexity", "-"], text.as_bytes());
    let line = format!("perplexity      {:.4} ± ", number(&found["perplexity"]["value"]));
    assert!(piped.out.starts_with(&line) && piped.err.is_empty(), "{piped:?}");
    assert!(piped.out.contains(&format!(
        "{} tokens, {} bytes in 1 text",
        ids.len() - 1,
        text.len()
    )));
}

#[test]
fn documents_are_read_on_their_own() {
    let files = Files::new();
    let all = stories(&files, "all.jsonl", 0..6);
    let some = stories(&files, "some.jsonl", [0, 2, 4]);
    let llamba = Llamba::embedded().load().unwrap();
    let tokenizer = llamba.tokenizer().unwrap();
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for story in [STORIES[0], STORIES[4]] {
        let mut ids = tokenizer.encode(story, true).unwrap();
        ids.push(tokenizer.eos_ids()[0]);
        let losses = losses(&llamba, &ids);
        nats += losses.iter().sum::<f64>();
        tokens += losses.len();
        bytes += story.len();
    }
    let mut third = run(&["perplexity", "--data", &all, "--field", "story", "--every", "2"]);
    close(&third["perplexity"]["value"], (nats / tokens as f64).exp());
    close(&third["bits_per_byte"]["value"], nats / 2f64.ln() / bytes as f64);
    let counts = [("tokens", tokens), ("bytes", bytes), ("documents", 2)];
    assert!(counts.iter().all(|(name, count)| third[name] == *count), "{third}");
    assert!(number(&third["perplexity"]["document_error"]) > 0.0);
    let mut same = run(&["perplexity", "--data", &some, "--field", "story"]);
    for field in ["text", "seconds", "tokens_per_second"] {
        third[field] = Value::Null;
        same[field] = Value::Null;
    }
    assert_eq!(third, same);
    let first = run(&["perplexity", "--data", &all, "--field", "story", "--limit", "1"]);
    assert_eq!(first["bytes"], STORIES[0].len());
    // JSON is recognized where a text is given, and a list of it.
    let mut positional = run(&["perplexity", &some, "--field", "story"]);
    let list = files.0.path().join("list.json");
    let stories = [0, 2, 4].map(|i| json!({ "story": STORIES[i] }));
    std::fs::write(&list, json!(stories).to_string()).unwrap();
    let mut listed = run(&["perplexity", list.to_str().unwrap(), "--field", "story"]);
    for found in [&mut positional, &mut listed] {
        for field in ["text", "seconds", "tokens_per_second"] {
            found[field] = Value::Null;
        }
        assert_eq!(*found, same);
    }
}

#[test]
fn models_are_compared() {
    let files = Files::new();
    let data = stories(&files, "all.jsonl", 0..6);
    let text = &["--data", &data, "--field", "story"][..];
    let same = run(&[&["compare", "llamba-stories", "llamba-stories"], text].concat());
    assert_eq!(same["mean_kl"], json!({ "value": 0.0, "error": 0.0, "document_error": 0.0 }));
    assert_eq!(same["perplexity_ratio"]["value"], 1.0);
    assert_eq!(same["top1_agreement"]["value"], 1.0);
    let small = files.0.path().join("small").display().to_string();
    CLI.ok(&["quantize", "--bits", "3", "--requantize", "--output", &small]);
    let found = run(&[&["compare", "llamba-stories", &small], text].concat());
    let alone = |model: &[&str]| run(&[&["perplexity"], model, text].concat());
    let (first, second) = (alone(&[]), alone(&["--model", &small]));
    for (side, alone) in [("reference", &first), ("other", &second)] {
        for name in ["perplexity", "nats_per_token", "bits_per_byte"] {
            for part in ["value", "error", "document_error"] {
                close(&found[side][name][part], number(&alone[name][part]));
            }
        }
    }
    let ratio = number(&second["perplexity"]["value"]) / number(&first["perplexity"]["value"]);
    close(&found["perplexity_ratio"]["value"], ratio);
    assert!(number(&found["mean_kl"]["value"]) > 0.001);
    assert!(number(&found["top1_agreement"]["value"]) < 1.0);
    // The difference has a smaller error than the perplexities themselves.
    let errors = |value: &Value| number(&value["error"]);
    assert!(errors(&found["perplexity_ratio"]) < errors(&found["reference"]["nats_per_token"]));
    let named = run(&[&["compare", "llamba-stories", "-m", &small], text].concat());
    assert_eq!((&named["models"], &named["mean_kl"]), (&found["models"], &found["mean_kl"]));
    let said = CLI.ok(&[&["compare", "llamba-stories", &small], text].concat());
    assert!(said.contains("mean KL         0.") && said.contains("perplexity      x "), "{said}");
}

#[test]
fn teachers_and_students_of_one_vocabulary() {
    let files = Files::new();
    let text = files.write("text", STORIES.join(" "));
    let tiny = Tiny { vocab: 277, ..Tiny::default() };
    let student = files.0.path().join("student");
    std::fs::create_dir(&student).unwrap();
    tiny.write(&student, &tiny.tensors(3), safetensors::Dtype::F32, 1);
    let student = student.display().to_string();
    let teacher = teacher();
    let found = run(&["compare", &teacher, &student, &text]);
    let alone = run(&["perplexity", "--model", &teacher, &text]);
    assert!(number(&found["tokens"]) > 64.0, "{found}");
    assert_eq!(found["tokens"], alone["tokens"]);
    close(&found["reference"]["perplexity"]["value"], number(&alone["perplexity"]["value"]));
    // The only tokenizer is used.
    let turned = run(&["compare", &student, &teacher, &text]);
    for part in ["value", "error"] {
        close(
            &turned["other"]["perplexity"][part],
            number(&found["reference"]["perplexity"][part]),
        );
        close(&turned["top1_agreement"][part], number(&found["top1_agreement"][part]));
    }
    // With a stride of 1 all but the first tokens have a full window before them.
    let most = run(&["perplexity", "--model", &teacher, "--window", "24", "--stride", "1", &text]);
    let least =
        run(&["perplexity", "--model", &teacher, "--window", "24", "--stride", "24", &text]);
    assert_ne!(most["perplexity"], least["perplexity"]);
    assert_eq!(most["tokens"], alone["tokens"]);
    let args = ["perplexity", "--model", &teacher, "--window", "65", &text];
    CLI.refuses(&args, &["--window 65: expected 1 to 64 tokens"]);
    CLI.refuses(&["perplexity", "--stride", "5", &text], &["--stride 5", "--window too"]);
    let args = ["compare", "llamba-stories", &teacher, &text];
    CLI.fails(&args, &["vocab_size = 277: expected 4096, as in the reference"]);
    let args = ["compare", &student, &student, &text];
    CLI.fails(&args, &["no tokenizer for", "--tokenizer"]);
}

#[test]
fn questions_are_answered_by_likelihood() {
    let files = Files::new();
    let questions = [
        ("Once upon a time, there was a little girl named", ["Lily.", "of under."], json!(0)),
        ("The dog was very happy. He wagged his", ["soup.", "tail."], json!("tail.")),
        ("It was raining, so Tom took his", ["and the.", "umbrella."], json!(0)),
    ];
    let lines = questions.clone().map(|(context, choices, answer)| {
        json!({ "context": context, "choices": choices, "answer": answer })
    });
    let data = files.lines("questions.jsonl", lines);
    let out = CLI.ok(&["eval", "--data", &data, "--mutual-information", "--json", "--each"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let llamba = Llamba::embedded().load().unwrap();
    let encode = |text: &str| llamba.tokenizer().unwrap().encode(text, false).unwrap();
    let bos = llamba.tokenizer().unwrap().bos_id().unwrap();
    for ((context, choices, _), line) in questions.iter().zip(&lines) {
        for (i, choice) in choices.iter().enumerate() {
            let whole = encode(&format!("{context} {choice}"));
            let after = whole.len() - encode(context).len();
            let own = losses(&llamba, &whole);
            close(&line["likelihoods"][i], -own[own.len() - after..].iter().sum::<f64>());
            let alone = [&[bos], &encode(&format!(" {choice}"))[..]].concat();
            close(&line["alone"][i], -losses(&llamba, &alone).iter().sum::<f64>());
        }
    }
    assert_eq!(lines.len(), 4);
    close(&lines[3]["acc"]["value"], 2.0 / 3.0);
    close(&lines[3]["acc"]["error"], 1.0 / 3.0);
    assert_eq!((&lines[3]["questions"], &lines[3]["cut"]), (&3.into(), &0.into()));
    let said = CLI.ok(&["eval", "--data", &data, "--limit", "2"]);
    assert!(said.starts_with("acc              1.0000 ± 0.0000\nacc_norm"), "{said}");
    assert!(said.ends_with("2 questions\n") && !said.contains("mutual"), "{said}");
    let with = run(&["eval", "--data", &data, "--bos", "--delimiter", ""]);
    assert_eq!(with["questions"], 3);

    // A teacher reads through its window.
    let long = json!({ "context": "a long story ".repeat(30), "choices": ["b", "c"], "answer": 0 });
    let long = files.lines("long.jsonl", [long]);
    assert_eq!(run(&["eval", "--model", &teacher(), "--data", &long])["cut"], 1);
}

#[test]
fn bad_input_is_named() {
    let files = Files::new();
    let text = files.write("text", "Hello there.");
    let empty = files.write("empty", "");
    let latin =
        files.write("latin", [&b"a word or two ".repeat(9)[..], b"caf\xe9 au lait"].concat());
    let wrong = files.lines("wrong.jsonl", [json!({ "text": "a b" }), json!({ "text": 5 })]);
    let none = files.0.path().join("none").display().to_string();
    let no_choice = json!({ "context": "x", "choices": ["a"], "answer": 1 });
    let questions = files.lines("questions.jsonl", [no_choice]);
    let directory: PathBuf = files.0.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let directory = directory.display().to_string();
    for (arguments, parts) in [
        (&["perplexity", &none][..], &["cannot read", "none"][..]),
        (&["perplexity", &empty], &["empty: no token to predict"]),
        (&["perplexity", &latin], &["latin is not UTF-8 text: byte 129"]),
        (&["perplexity", &directory], &["cannot read", "directory"]),
        (&["perplexity", "--data", &wrong], &["wrong.jsonl, line 2", "is no text"]),
        (&["perplexity", "--data", &wrong, "--field", "x"], &["line 1", "no field \"x\""]),
        (&["perplexity", "--data", &directory], &["no documents"]),
        (&["perplexity", "--model", &none, &text], &["none"]),
        (&["compare", "llamba-stories", &none, &text], &["none"]),
        (&["compare", "llamba-stories", "llamba-stories", &empty], &["no token to predict"]),
        (&["eval", "--data", &none], &["cannot read", "none"]),
        (&["eval", "--data", &empty], &["empty has no questions"]),
        (&["eval", "--data", &questions], &["questions.jsonl, line 1", "not an index below 1"]),
        (&["eval", "--data", &wrong], &["wrong.jsonl, line 1", "no field \"context\""]),
    ] {
        CLI.fails(arguments, parts);
    }
    let none = ["perplexity", "--window", "0", &text];
    CLI.refuses(&none, &["--window 0", "expected at least 1"]);
    let mut file = std::fs::File::options().append(true).open(&text).unwrap();
    file.write_all(" And more.".repeat(20).as_bytes()).unwrap();
    assert_eq!(run(&["perplexity", &text])["bytes"], 12 + 200);
}

/// Computes the teacher's logits after each single token, from an empty cache.
fn alone(ids: &[u32]) -> Vec<Vec<f64>> {
    use mlx_llamba_teacher::Llama;
    let llama = Llama::open(teacher(), Dtype::Float32, Backend::PLAIN).unwrap();
    let tokens = mlx_rs::Array::from_slice(ids, &[ids.len() as i32, 1]);
    let logits = llama.logits(&llama.documents(&tokens, None).unwrap()).unwrap();
    let rows = floats(&logits).unwrap();
    rows.chunks(277).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

#[test]
fn a_transformer_attends_to_a_window() {
    let (files, model) = (Files::new(), teacher());
    let text = files.write("text.txt", "The boats went out. The boats came in.");
    let measure = |more: &[&str]| run(&[&["perplexity", "-m", &model, &text], more].concat());
    let nats = |found: &Value| number(&found["nats_per_token"]["value"]);
    // A window of one token: each token sees only itself, at any position.
    let tokenizer = mlx_llamba_teacher::tokenizer_of(Path::new(&model)).unwrap();
    let ids = tokenizer.encode("The boats went out. The boats came in.", true).unwrap();
    assert!(ids.len() > 20 && ids.len() < 60);
    let rows = alone(&ids);
    let expected = rows
        .iter()
        .zip(&ids[1..])
        .map(|(row, &next)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[next as usize]);
    let expected = expected.sum::<f64>() / (ids.len() - 1) as f64;
    let found = measure(&["--attention-window", "1", "--sinks", "0"]);
    assert!((nats(&found) - expected).abs() < 1e-5 * expected, "{found} {expected}");
    assert_eq!(found["attention_window"], json!({ "size": 1, "sinks": 0 }));
    // A window over the whole text changes nothing, nor do sinks up to it; others do.
    let whole = measure(&[]);
    assert_eq!(whole["attention_window"], Value::Null);
    for (window, sinks, same) in [("80", "4", true), ("2", "70", true), ("2", "4", false)] {
        let found = measure(&["--attention-window", window, "--sinks", sinks]);
        let near = (nats(&found) - nats(&whole)).abs() < 1e-6;
        assert_eq!(near, same, "{window} {sinks}: {found} {whole}");
    }
    // In a comparison, the other model has the window.
    let compare = ["compare", &model, &model, &text, "--attention-window", "1", "--sinks", "0"];
    let found = run(&compare);
    assert_eq!(nats(&found["reference"]), nats(&whole));
    assert!((nats(&found["other"]) - expected).abs() < 1e-5 * expected, "{found}");
    assert!(number(&found["mean_kl"]["value"]) > 0.0);

    let limit = ["--attention-window", "4"];
    let refused = ["llamba-stories has no attention to limit", "for Transformers"];
    CLI.fails(&[&["perplexity", &text][..], &limit].concat(), &refused);
    let pair = ["compare", "llamba-stories", "llamba-stories", &text];
    CLI.fails(&[&pair[..], &limit].concat(), &refused);
    for wrong in [&["--sinks", "4"][..], &["--attention-window", "0"]] {
        let run = CLI.run(&[&["perplexity", "-m", &model, &text], wrong].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}
