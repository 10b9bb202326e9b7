//! Teachers (Llama Transformers) in the commands that accept them.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use mlx_llamba_tests::command::{Cli, signal, wait_for};
use mlx_llamba_tests::tiny::Tiny;
use safetensors::Dtype;
use serde_json::Value;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

fn fixture(name: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba-teacher/tests");
    tests.join("fixtures").join(name).to_str().unwrap().to_owned()
}

/// Makes a directory in Hugging Face's layout with the given fixture files.
fn directory(path: &Path, files: &[(&str, &str)]) -> String {
    for (from, to) in files {
        std::fs::copy(PathBuf::from(fixture(from)), path.join(to)).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_gguf_file_generates_with_the_options_of_generate() {
    let model = fixture("mixed.gguf");
    let generate = |options: &[&str]| {
        let base = ["generate", "-m", &model, "-n", "12", "--ignore-eos"];
        CLI.ok(&[&base[..], options].concat())
    };
    let greedy = generate(&["-t", "0", "The boats"]);
    assert_eq!(generate(&["-t", "0", "--echo", "The boats"]), format!("The boats{greedy}"));
    assert_eq!(generate(&["-t", "0", "--prefill", "2", "--device", "cpu", "The boats"]), greedy);
    assert_eq!(generate(&["--seed", "3", "The boats"]), generate(&["--seed", "3", "The boats"]));
    let events = generate(&["-t", "0", "--json", "--logprobs", "2", "The boats"]);
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let joined: String = events.iter().filter_map(|e| e["text"].as_str()).collect();
    assert_eq!(joined + "\n", greedy);
    assert_eq!(events[1]["logprobs"]["top"].as_array().unwrap().len(), 2);
}

/// A GGUF file's tokenizer works for a Llamba, wherever a tokenizer is accepted.
#[test]
fn a_gguf_file_lends_its_tokenizer() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let gguf = fixture("mixed.gguf");
    let known: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("mixed.ids.json")).unwrap()).unwrap();
    let ids = known["ids"].as_array().unwrap().iter().map(Value::to_string);
    let ids = ids.collect::<Vec<_>>().join(",");
    let tiny = Tiny { vocab: 277, ..Tiny::default() };
    let model = path("model");
    std::fs::create_dir(&model).unwrap();
    tiny.write(Path::new(&model), &tiny.tensors(5), Dtype::F32, 1);
    let logits = |input: &[&str]| {
        let output = path("out.safetensors");
        CLI.ok(&[&["logits", "--model", &model, "--output", &output], input].concat());
        std::fs::read(output).unwrap()
    };
    let prompt = known["text"].as_str().unwrap();
    let by_text = logits(&["--tokenizer", &gguf, "--prompt", prompt]);
    assert!(by_text == logits(&["--tokens", &ids]));
    // Other commands accept it too, and report a damaged one.
    std::fs::write(path("text.txt"), prompt).unwrap();
    CLI.ok(&["perplexity", "--model", &model, "--tokenizer", &gguf, &path("text.txt")]);
    let bytes = std::fs::read(&gguf).unwrap();
    let broken = path("broken.gguf");
    std::fs::write(&broken, &bytes[..bytes.len() / 40]).unwrap();
    for command in ["generate", "chat", "serve"] {
        let end = if command == "generate" { &["hi"][..] } else { &[] };
        let arguments = [&[command, "--tokenizer", &broken], end].concat();
        let error = CLI.fails(&arguments, &["not a sound GGUF file", "broken.gguf"]);
        assert_eq!(error.matches("broken.gguf").count(), 1, "{error}");
    }
}

#[test]
fn only_a_llamba_has_a_state_to_save() {
    let temporary = tempfile::tempdir().unwrap();
    let state = temporary.path().join("state");
    let model = fixture("mixed.gguf");
    for option in ["--state-out", "--state-in"] {
        let args = ["generate", "-m", &model, option, state.to_str().unwrap(), "The"];
        CLI.fails(&args, &["only the state of a Llamba can be saved"]);
        assert!(!state.exists());
    }
}

#[test]
fn a_text_longer_than_the_context_is_warned_of_once() {
    let model = fixture("mixed.gguf");
    let args = ["generate", "-m", &model, "-n", "70", "--ignore-eos", "The"];
    let run = CLI.run(&args);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.err.matches("longer than the 64 tokens").count(), 1, "{}", run.err);
}

#[test]
fn a_directory_needs_its_tokenizer() {
    let temporary = tempfile::tempdir().unwrap();
    let files =
        [("plain/config.json", "config.json"), ("plain/model.safetensors", "model.safetensors")];
    let model = directory(temporary.path(), &files);
    CLI.fails(&["generate", "-m", &model, "The"], &["no tokenizer for", "--tokenizer"]);
}

#[test]
fn inspect_describes_teachers() {
    let out = CLI.ok(&["inspect", &fixture("mixed.gguf")]);
    assert!(out.contains("layout       Llama, GGUF") && out.contains("Q4_1"), "{out}");
    let out = CLI.ok(&["inspect", "--tensors", &fixture("plain")]);
    assert!(out.contains("F32 [48, 12] model.layers.0.self_attn.q_proj.weight"), "{out}");
    let json = CLI.ok(&["inspect", "--json", "--tensors", &fixture("biases")]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["config"]["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(json["tensors"].as_array().unwrap().len(), 2 * 16 + 2);
}

#[test]
fn other_architectures_are_refused_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let config = temporary.path().join("config.json");
    std::fs::write(&config, r#"{"model_type": "mamba2", "vocab_size": 5}"#).unwrap();
    std::fs::copy(fixture("plain/model.safetensors"), temporary.path().join("model.safetensors"))
        .unwrap();
    let model = temporary.path().to_str().unwrap();
    for args in [&["inspect", "--model", model][..], &["generate", "--model", model, "The"]] {
        CLI.fails(args, &["config.json", "architecture mamba2", "llama"]);
    }
}

/// A Transformer is served too: texts and messages, but no sessions.
#[test]
fn a_teacher_is_served() {
    let model = fixture("mixed.gguf");
    let arguments = ["serve", "-m", &model, "--bind", "127.0.0.1:0", "--chat-template", "plain"];
    let mut child = CLI.spawn(&arguments, std::process::Stdio::null());
    let mut line = String::new();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    log.read_line(&mut line).unwrap();
    let address = line.trim_end().rsplit_once("http://").unwrap().1.to_owned();
    let send = |path: &str, body: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head =
            "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
        let length = body.len();
        let request = format!("POST {path} {head}\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), serde_json::from_str::<Value>(body).unwrap())
    };
    let greedy = CLI.ok(&["generate", "-m", &model, "-n", "12", "-t", "0", "The boats"]);
    let body = r#"{"prompt": "The boats", "max_tokens": 12, "temperature": 0, "n": 2}"#;
    let (status, answer) = send("/v1/completions", body);
    assert_eq!(status, "200", "{answer}");
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["text"].as_str().unwrap().to_owned() + "\n", greedy);
    }
    // Its context ends at 64 tokens.
    let chat = r#"{"messages": [{"role": "user", "content": "The"}], "max_tokens": 900, "ignore_eos": true}"#;
    let (status, answer) = send("/v1/chat/completions", chat);
    assert_eq!(
        (status.as_str(), &answer["choices"][0]["finish_reason"]),
        ("200", &"length".into())
    );
    assert_eq!(answer["usage"]["total_tokens"], 64);
    let (status, answer) =
        send("/v1/chat/completions", &chat.replacen('{', r#"{"guided_choice": ["red"], "#, 1));
    assert_eq!(
        (status.as_str(), &answer["choices"][0]["message"]["content"]),
        ("200", &"red".into())
    );
    for (path, body, part) in [
        ("/v1/sessions", "{}", "it has no sessions"),
        ("/v1/embeddings", r#"{"input": "a"}"#, "it has no embeddings"),
        ("/v1/completions", &body.replace("The boats", &"The boats ".repeat(40)), "more than 63"),
    ] {
        let (status, answer) = send(path, body);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == "400" && message.contains(part), "{status} {answer}");
    }
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn commands_for_llambas_say_how_a_teacher_becomes_one() {
    let temporary = tempfile::tempdir().unwrap();
    let output = temporary.path().join("out");
    let (model, output) = (fixture("mixed.gguf"), output.to_str().unwrap());
    let args = ["logits", "--model", &model, "--tokens", "1", "--output", output];
    CLI.fails(&args, &["mixed.gguf", "a GGUF file holds a Transformer", "`distill` makes from it"]);
    let args = ["logits", "--model", &fixture("plain"), "--tokens", "1", "--output", output];
    CLI.fails(&args, &["config.json", "expected \"llamba\", which distill makes of a Llama"]);
}

#[test]
fn weights_that_are_no_numbers_are_warned_of() {
    // The offset of the matrix's first scale in the fixture.
    const SCALE: usize = 60096;
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("nan.gguf");
    let mut bytes = std::fs::read(fixture("mixed.gguf")).unwrap();
    bytes[SCALE..SCALE + 2].copy_from_slice(&[0, 0x7e]);
    std::fs::write(&file, bytes).unwrap();
    let run = CLI.run(&["generate", "-m", file.to_str().unwrap(), "-n", "1", "The"]);
    let expected = "model.layers.2.mlp.up_proj.weight holds NaN or infinity";
    assert!(run.err.contains(expected), "{run:?}");
}

#[test]
fn a_teacher_writes_its_own_data() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let (model, texts) = (fixture("mixed.gguf"), path("texts.jsonl"));
    let write = |output: &str| -> Vec<String> {
        let base = "synthesize --tokens 700 --length 20 --batch 6 --seed 24 --top-k 100 \
                    --begin <|im_start|>";
        let base = base.split_whitespace().map(String::from);
        base.chain(["--teacher", &model, "--output", output].map(String::from)).collect()
    };
    let run = |arguments: &[String], more: &[&str]| {
        let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
        CLI.run(&[&given[..], more].concat())
    };
    let out = run(&write(&texts), &[]);
    assert!((out.code, out.err.as_str()) == (Some(0), ""), "{out:?}");
    // A text that is cut within a character may be empty; it is left out.
    assert!(out.out.contains("texts.jsonl: 69") && out.out.contains("tok/s"), "{out:?}");
    run(&write(&texts), &[]).fails(&["texts.jsonl exists already", "--overwrite"]);
    // The last text is cut where the tokens are enough.
    let few = path("few.jsonl");
    let short =
        ["synthesize", "-m", &model, "--tokens", "10", "--begin", "<|im_start|>", "-o", &few];
    let written = CLI.ok(&[&short[..], &["--length", "64"]].concat());
    assert!(written.contains("few.jsonl: 10 tokens, "), "{written}");
    CLI.ok(&[&short[..], &["--length", "20", "--overwrite"]].concat());
    assert_eq!(run(&write(&path("again.jsonl")), &[]).code, Some(0));
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    assert_eq!(read("again.jsonl"), read("texts.jsonl"));

    // A killed run continues to the same file.
    let longer = |word: String| if word == "700" { "8000".to_owned() } else { word };
    let slow: Vec<String> = write(&path("slow.jsonl")).into_iter().map(longer).collect();
    let whole = slow.iter().map(|word| word.replace("slow.jsonl", "whole.jsonl"));
    assert_eq!(run(&whole.collect::<Vec<_>>(), &[]).code, Some(0));
    let arguments: Vec<&str> = slow.iter().map(String::as_str).collect();
    let mut child = CLI.spawn(&arguments, std::process::Stdio::null());
    let partial = path("slow.jsonl.partial");
    wait_for("a group", || (std::fs::metadata(&partial).ok()?.len() > 3000).then_some(()));
    signal(&child, "KILL");
    child.wait().unwrap();
    run(&slow, &[]).fails(&["slow.jsonl.partial holds a run already; resume it"]);
    run(&slow, &["--temperature", "0.5", "--resume"]).fails(&["temperature was \"1\", is \"0.5\""]);
    assert_eq!(run(&slow, &["--resume"]).code, Some(0));
    assert_eq!(read("slow.jsonl"), read("whole.jsonl"));

    // A student can be trained on it.
    let recipe = "--config tiny --length 16 --tokens 200 --set data.heldout_every=4";
    let student = path("student");
    let base = ["distill", "--teacher", &model, "--data", &texts, "--output", &student];
    CLI.ok(&[&base[..], &recipe.split(' ').collect::<Vec<_>>()].concat());

    let nothing = ["synthesize", "--teacher", &model, "--tokens", "9", "-o"];
    let refused = |more: &[&str], parts: &[&str]| {
        CLI.fails(&[&nothing[..], &[&path("no.jsonl")], more].concat(), parts);
    };
    refused(&["--length", "20"], &["name one with --begin"]);
    refused(&["--begin", "<no>"], &["no token \"<no>\""]);
    refused(&["--length", "900"], &["900", "context of 64 tokens"]);
    refused(&["--length", "20", "--prompts", "/nowhere"], &["cannot read /nowhere"]);
    let none = ["--begin", "<|im_end|>", "--length", "20", "--top-p", "0"];
    let output = path("no.jsonl");
    CLI.refuses(&[&nothing[..], &[&output], &none].concat(), &["--top-p 0"]);
    let llamba = mlx_llamba_tests::fixtures::path("a_base").display().to_string();
    CLI.fails(
        &["synthesize", "--teacher", &llamba, "--tokens", "9", "-o", &path("no.jsonl")],
        &["architecture llamba"],
    );
    assert!(!std::path::Path::new(&path("no.jsonl.partial")).exists());
}
