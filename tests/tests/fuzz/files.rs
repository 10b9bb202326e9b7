//! Files of weights, states, sessions and training.

use std::path::Path;

use mlx_llamba::files::hash::sha256;
use mlx_llamba::files::resealed;
use mlx_llamba::kernels::Backend;
use mlx_llamba::{Checkpoint, Context, Generation, Llamba, Session, Tokenizer};
use mlx_llamba_mohawk::Parameters;
use mlx_llamba_mohawk::train::{Checkpoints, Identity, State};
use mlx_llamba_teacher::{Llama, gguf_tokenizer};
use mlx_llamba_tests::{chat, tiny::Tiny};
use mlx_rs::{Array, Dtype};
use serde_json::json;

use crate::harness::{self, Target};

/// The outcome in words.
fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "sound".to_owned())
}

#[test]
fn safetensors() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = Tiny {
        vocab: 8,
        d: 4,
        layers: 1,
        mlp: 3,
        heads: [2, 1, 2, 2],
        tied: true,
        ..Tiny::default()
    };
    tiny.write(directory.path(), &tiny.tensors(1), safetensors::Dtype::F32, 1);
    let file = directory.path().join("model.safetensors");
    let words = &[
        "\"__metadata__\":{\"format\":\"mlx\"},",
        "\"dtype\":\"BF16\"",
        "\"shape\":[",
        "\"data_offsets\":[",
        "\"U8\"",
        "\"F4\"",
        "[[]]",
        "{}",
        "null",
        ",",
        "0,",
        "\\u0000",
    ];
    let seeds = vec![std::fs::read(&file).unwrap()];
    Target { name: "safetensors", seeds, words }.fuzz(|bytes| {
        std::fs::write(&file, bytes).unwrap();
        told(Checkpoint::open(directory.path()).and_then(|checkpoint| {
            checkpoint.tensors().try_for_each(|(name, _)| Ok(checkpoint.array(name)?.eval()?))
        }))
    });
}

#[test]
fn gguf() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.gguf");
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba-teacher/tests/fixtures");
    let seeds = ["mixed", "factors"]
        .map(|name| std::fs::read(fixtures.join(name).with_extension("gguf")).unwrap());
    let words = &[
        "llama.block_count",
        "llama.rope.scaling.type",
        "linear",
        "split.count",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.scores",
        "general.alignment",
        "rope_freqs.weight",
        "\x09\0\0\0",
        "\x08\0\0\0",
    ];
    Target { name: "gguf", seeds: seeds.to_vec(), words }.fuzz(|bytes| {
        std::fs::write(&file, bytes).unwrap();
        let tokenizer = gguf_tokenizer(&file)
            .map_err(|error| error.to_string())
            .and_then(|files| {
                Tokenizer::from_files(&file, &files).map_err(|error| error.to_string())
            })
            .and_then(|tokenizer| {
                tokenizer.encode("a text", true).map_err(|error| error.to_string())
            });
        told(Llama::open(&file, Dtype::Float32, Backend::PLAIN)) + &told(tokenizer)
    });
}

/// With the right checksum, else only that would be tried; except for one input in four.
fn seal(bytes: &[u8]) -> Vec<u8> {
    match bytes.len() % 4 {
        0 => bytes.to_vec(),
        _ => resealed(bytes).unwrap_or_else(|| bytes.to_vec()),
    }
}

#[test]
fn state() {
    let llamba = chat::load(1);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let mut stream = llamba.stream("a text", &Generation::default().max_tokens(3)).unwrap();
    assert!(stream.by_ref().all(|event| event.is_ok()));
    stream.into_context().unwrap().save(llamba.model(), &file).unwrap();
    let seeds = vec![std::fs::read(&file).unwrap()];
    let words = &[
        "\"pending\":\"[1]\"",
        "\"read\":\"",
        "\"rng\":\"null\"",
        "\"tail\":\"[255]\"",
        "[",
        "]",
        "9,",
    ];
    Target { name: "state", seeds, words }.fuzz(|bytes| {
        std::fs::write(&file, seal(bytes)).unwrap();
        told(Context::load(llamba.model(), &file).and_then(|context| go_on(&llamba, context)))
    });
}

fn go_on(llamba: &Llamba, context: Context) -> mlx_llamba::Result<()> {
    let options = Generation::default().max_tokens(1);
    llamba.resume(context, "x", &options)?.try_for_each(|event| event.map(drop))
}

#[test]
fn session() {
    let llamba = chat::load(1);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("session");
    let options = Generation::default().max_tokens(3);
    let mut session = llamba.session().unwrap();
    session.push_system("Be brief.");
    session.push_user("Hello");
    session.reply(&options).unwrap().try_for_each(|event| event.map(drop)).unwrap();
    session.save(&file).unwrap();
    let seeds = vec![std::fs::read(&file).unwrap()];
    let words = &[
        "\\\"read\\\":true",
        "\\\"joined\\\":true",
        "\\\"closing\\\":1",
        "\\\"ids\\\":[0]",
        "\\\"covered\\\":0",
        "\\\"tools\\\":[[]]",
        "\\\"source\\\":\\\"{{ 1 }}\\\"",
        "\\\"budget\\\":0",
        "[",
        "]",
        "{",
        "}",
        ",",
        "9,",
    ];
    Target { name: "session", seeds, words }.fuzz(|bytes| {
        std::fs::write(&file, seal(bytes)).unwrap();
        told(Session::load(&llamba, &file).and_then(|mut session| {
            session.push_user("And you?");
            session.reply(&options)?.try_for_each(|event| event.map(drop))
        }))
    });
}

/// The text before the checksum of a training checkpoint's JSON.
const BEFORE_SHA256: &str = ",\n  \"sha256\": \"";

#[test]
fn training() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(directory.path(), 1);
    let array = Array::from_slice(&[1.0_f32, 2.0], &[2]);
    let mut state = State::new(Parameters::from([("w".to_owned(), array)]));
    state.progress.total_steps = 1;
    let identity = Identity::from([("seed".to_owned(), json!(1))]);
    let saved = checkpoints.save(&state, &identity).unwrap();
    let [json, tensors] = ["state.json", "state.safetensors"].map(|name| saved.join(name));
    let text = std::fs::read_to_string(&json).unwrap();
    let text = text.split(BEFORE_SHA256).next().unwrap();
    let sound = std::fs::read(&tensors).unwrap();
    // The length of the text, the text and the tensors.
    let seed = [&(text.len() as u16).to_le_bytes(), text.as_bytes(), &sound].concat();
    let words = &[
        "\"total_steps\": 1",
        "\"identity\": {}",
        "\"stage\": ",
        "\"parameter/a\":",
        "\"m/w\":",
        "\"v/w\":",
    ];
    Target { name: "training", seeds: vec![seed], words }.fuzz(|bytes| {
        let length = bytes.first_chunk().map_or(0, |length| u16::from_le_bytes(*length));
        let (text, found) =
            bytes.get(2..).unwrap_or_default().split_at_checked(length.into()).unwrap_or_default();
        // Checksums and length are right, else only they would be tried.
        let text = String::from_utf8_lossy(text).replace(&sha256(&sound), &sha256(found));
        let length = format!("\"bytes\": {}", sound.len());
        let text = text.replace(&length, &format!("\"bytes\": {}", found.len()));
        std::fs::write(&json, format!("{text}{BEFORE_SHA256}{}\"\n}}", sha256(&text))).unwrap();
        std::fs::write(&tensors, found).unwrap();
        told(checkpoints.newest())
    });
}

/// The header of a GGUF file with metadata and tensors of these kinds.
fn gguf_header(metadata: &[(&str, u32, Vec<u8>)], tensors: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (name, kind, value) in metadata {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    bytes.extend(rest);
    bytes
}

/// A parsed header takes at most twice the memory of the file, which is mapped, and some MiB.
#[test]
#[cfg(target_os = "linux")]
fn headers_cost_at_most_twice_their_file() {
    const SIZE: usize = 8 << 20;
    let list = |piece: &str| vec![piece; SIZE / (piece.len() + 1)].join(",");
    let numbered = |form: fn(usize) -> String, each: usize| {
        (0..SIZE / each).map(form).collect::<Vec<_>>().join(",")
    };
    let tensor =
        |i| format!("\"{i:07}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let headers = [
        ("tensors", format!("{{{}}}", numbered(tensor, 58))),
        (
            "sizes",
            format!(r#"{{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,0]}}}}"#, list("0")),
        ),
        ("unknown lists", format!(r#"{{"a":{{"x":[{}]}}}}"#, list("[]"))),
        (
            "texts",
            format!(r#"{{"__metadata__":{{{}}}}}"#, numbered(|i| format!("\"{i:07}\":\"\""), 13)),
        ),
        ("a text", format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "\\n".repeat(SIZE / 2))),
        ("a dtype", format!(r#"{{"a":{{"dtype":"{}"}}}}"#, "x".repeat(SIZE))),
    ];
    let safetensors = headers.map(|(name, header)| {
        (name, "safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat())
    });
    let values = |kind: u32, count: usize, each: &[u8]| {
        [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &each.repeat(count)].concat()
    };
    let text = |length: usize| [&(length as u64).to_le_bytes()[..], &b"x".repeat(length)].concat();
    let empty = [0; 8];
    let key = [&1_u64.to_le_bytes()[..], b"k", &7_u32.to_le_bytes(), b"\0"].concat();
    let mut keys = gguf_header(&[], 0, &key.repeat(SIZE / key.len()));
    keys[16..24].copy_from_slice(&((SIZE / key.len()) as u64).to_le_bytes());
    let described = [&1_u64.to_le_bytes()[..], b"t", &1_u32.to_le_bytes(), &[0; 20]].concat();
    let gguf = [
        ("bytes", gguf_header(&[("a", 9, values(0, SIZE, &[1]))], 0, &[])),
        (
            "strings",
            gguf_header(&[("tokenizer.ggml.tokens", 9, values(8, SIZE / 8, &empty))], 0, &[]),
        ),
        ("a string", gguf_header(&[("tokenizer.chat_template", 8, text(SIZE))], 0, &[])),
        ("keys", keys),
        ("tensors", gguf_header(&[], (SIZE / 33) as u64, &described.repeat(SIZE / 33))),
    ];
    let gguf = gguf.map(|(name, bytes)| (name, "gguf", bytes));
    let directory = tempfile::tempdir().unwrap();
    for (name, extension, bytes) in safetensors.into_iter().chain(gguf) {
        let path = directory.path().join("model").with_extension(extension);
        std::fs::write(&path, &bytes).unwrap();
        let size = bytes.len();
        drop(bytes);
        let grown = harness::grown(|| match extension {
            "gguf" => drop(Llama::open(&path, Dtype::Float32, Backend::PLAIN)),
            _ => drop(Checkpoint::open(&path)),
        });
        let mapped = size;
        assert!(grown <= mapped + 2 * size + (6 << 20), "{extension}, {name}: {grown} for {size}");
    }
}
