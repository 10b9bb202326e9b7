//! Clients that people use, unmodified, out of PyPI.
//!
//! The first run installs them into the target directory; without PyPI, these tests fail and say
//! so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use common::{MODEL, Server};
use mlx_llamba::Llamba;
use mlx_llamba::evaluate::{Fields, MultipleChoice, MultipleChoiceOptions, Question, Score};
use serde_json::Value;

const KEY: &str = "sesame";

fn python_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// The Python that has the clients. Tests of one process take turns, those of several wait for
/// each other through a lock on a file.
fn python() -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = std::fs::File::create(directory.join("clients.lock")).unwrap();
    lock.lock().unwrap();
    let made = Command::new(python_files().join("venv.sh")).arg(directory.join("clients")).output();
    let path = said(&made.unwrap());
    PathBuf::from(path.trim())
}

/// A command's output; panics with all it said unless it went well.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

fn server() -> Server {
    Server::start(|options| {
        options.api_keys = vec![KEY.to_owned()];
        options.strict = true;
        options.engine.rows = Some(16);
        options.limits.max_tokens = 1000;
    })
}

#[test]
fn openai() {
    let server = server();
    let url = format!("http://{}", server.address);
    let mut command = Command::new(python());
    command.arg(python_files().join("openai_client.py")).args([&url, MODEL, KEY]);
    assert_eq!(said(&command.output().unwrap()), "ok\n");
}

/// The guide's Python examples run as they are.
#[test]
fn guide() {
    let server = Server::start(|_| {});
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guide/src/server.md");
    let chapter = std::fs::read_to_string(chapter).unwrap();
    let blocks = chapter.split("```python\n").skip(1);
    let program: String = blocks.map(|block| block.split_once("```").unwrap().0).collect();
    let program = program.replace("127.0.0.1:8080", &server.address.to_string());
    let out = said(&Command::new(python()).args(["-c", &program]).output().unwrap());
    // A text of several tokens, a stream, two turns with what each has read.
    assert!(out.split_whitespace().count() > 8, "{out}");
}

/// Likelihoods and scores through the server are those that the library finds by itself.
#[test]
fn lm_eval() {
    let server = server();
    let url = format!("http://{}", server.address);
    let mut command = Command::new(python());
    let directory = tempfile::tempdir().unwrap();
    let tokenizer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba/assets/llamba-stories");
    command.arg(python_files().join("lm_eval_client.py")).args([&url, MODEL]);
    command.arg(tokenizer).arg(python_files()).arg(directory.path()).env("OPENAI_API_KEY", KEY);
    command.env("HF_HUB_OFFLINE", "1").env("HF_DATASETS_OFFLINE", "1");
    command.env("HF_HOME", directory.path());
    let out = said(&command.output().unwrap());
    let found: Vec<Value> = serde_json::from_str(out.lines().last().unwrap()).unwrap();

    let llamba = Llamba::embedded().load().unwrap();
    let lines = std::fs::read_to_string(python_files().join("stories.jsonl")).unwrap();
    let fields =
        Fields { context: "beginning".into(), choices: "endings".into(), answer: "right".into() };
    for (bos, found) in [false, true].into_iter().zip(found) {
        let asking = MultipleChoiceOptions::default().bos(bos).mutual_information(true);
        let quiz =
            MultipleChoice::new(llamba.model(), llamba.tokenizer().unwrap(), asking).unwrap();
        let mut score = Score::default();
        for (i, line) in lines.lines().enumerate() {
            let question = Question::parse(line.as_bytes(), &fields).unwrap();
            let answer = quiz.answer(&question).unwrap();
            score.add(&question, &answer);
            let own = [answer.likelihoods, answer.alone.unwrap()].concat();
            let theirs = numbers(&found["likelihoods"][i]);
            assert_eq!(own.len(), theirs.len());
            for (own, theirs) in own.into_iter().zip(theirs) {
                let error = (own - theirs).abs();
                assert!(error < 1e-4 * own.abs().max(1.0), "{line}: {own}, {theirs}");
            }
        }
        let own = score.accuracies();
        let own = [own.acc, own.acc_norm, own.acc_bytes, own.acc_mutual_info.unwrap()];
        assert_eq!(own.map(|share| share.value).to_vec(), numbers(&found["values"]));
        for (share, theirs) in own.iter().zip(numbers(&found["errors"])) {
            assert!((share.error.unwrap() - theirs).abs() < 1e-12, "{share:?} {theirs}");
        }
        let values = own.map(|share| share.value);
        assert!(values.iter().any(|value| *value != values[0]), "the metrics agree: {values:?}");
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Whatever the description allows is served, whatever it forbids is refused, and nothing else
/// comes back than what it says.
#[test]
fn schemathesis() {
    let server = Server::start(|options| {
        options.api_keys = vec![KEY.to_owned()];
        options.engine.rows = Some(4);
        options.limits.max_tokens = 8;
    });
    let url = format!("http://{}/openapi.json", server.address);
    let schemathesis = python().with_file_name("schemathesis");
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(schemathesis);
    command.current_dir(directory.path());
    command.env("SCHEMATHESIS_HOOKS", python_files().join("hooks.py"));
    command.args(["--config-file"]).arg(python_files().join("schemathesis.toml"));
    // The schema cannot describe the contents of a session file.
    command.args(["run", &url, "--exclude-operation-id", "importSession"]);
    command.args(["--header", &format!("Authorization: Bearer {KEY}")]);
    said(&command.output().unwrap());
    assert_eq!(server.get("/health").ok()["status"], "ok");
}
