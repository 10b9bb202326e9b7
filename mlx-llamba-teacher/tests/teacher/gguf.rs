//! GGUF files against numbers made in PyTorch of what the `gguf` package reads in them.

use mlx_llamba::Tokenizer;
use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::kernels::{Backend, Weight};
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::{
    Llama, Rope, TeacherSummary, Wanted, gguf_tokenizer, is_teacher, save, tokenizer_of,
};

use crate::support::{Golden, assert_close, fixture};

const LOGITS: Wanted = Wanted { hidden: false, attention: false, logits: true };
const FILES: [&str; 2] = ["mixed", "factors"];

fn open(name: &str, backend: Backend) -> Llama {
    Llama::open(fixture(&format!("{name}.gguf")), Dtype::Float32, backend).unwrap()
}

fn check(llama: &Llama, name: &str) {
    let golden = Golden::beside(name);
    let trace = llama.trace(&golden.tokens(), None, LOGITS).unwrap();
    assert_close(name, &trace.logits.unwrap(), &golden.array("logits"), 1e-5);
}

#[test]
fn every_kind_of_number_is_read() {
    for name in FILES {
        for backend in [Backend::PLAIN, Backend::CPU] {
            check(&open(name, backend), name);
        }
    }
}

#[test]
fn quantized_matrices_stay_quantized_and_give_exact_parameters() {
    let llama = open("mixed", Backend::CPU);
    let quantized =
        llama.weights().iter().filter(|(_, weight)| !matches!(weight, Weight::Dense(_)));
    assert_eq!(quantized.count(), 1 + 3 * 7 - 5);
    for name in FILES {
        let llama = open(name, Backend::CPU);
        let parameters = llama.parameters().unwrap();
        check(&Llama::from_parameters(llama.config(), &parameters, Backend::PLAIN).unwrap(), name);
        let temporary = tempfile::tempdir().unwrap();
        let output = temporary.path().join("out");
        save(llama.config(), &parameters, &TokenizerFiles::default(), &output, false).unwrap();
        let again = Llama::open(&output, Dtype::Float32, Backend::PLAIN).unwrap();
        assert_eq!(again.config(), llama.config());
        check(&again, name);
    }
}

#[test]
fn configuration_comes_from_metadata_and_tensors() {
    let mixed = open("mixed", Backend::PLAIN);
    let config = mixed.config();
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (6, 2));
    assert_eq!(
        (config.rms_norm_eps, config.rope_theta, config.rope.clone()),
        (1e-5, 500.0, Rope::Default)
    );
    assert_eq!((config.bos, config.eos.as_slice()), (Some(1), &[2][..]));
    assert!(config.tie_word_embeddings && !config.qkv_bias && !config.mlp_bias);
    let factors = open("factors", Backend::PLAIN);
    let config = factors.config();
    assert!(!config.tie_word_embeddings && config.qkv_bias && config.out_bias && config.mlp_bias);
    let Rope::Llama3 { factor, .. } = &config.rope else { panic!("{:?}", config.rope) };
    assert!((factor - 32.0).abs() < 1e-3);
}

/// A copy of `mixed.gguf` with more metadata: keys, GGUF's numbers of the types, and values.
fn with_metadata(path: &std::path::Path, more: &[(&str, u32, &[u8])]) {
    let mut bytes = std::fs::read(fixture("mixed.gguf")).unwrap();
    let mut added = Vec::new();
    let mut add = |key: &str, kind: u32, value: &[u8]| {
        added.extend((key.len() as u64).to_le_bytes());
        added.extend(key.as_bytes());
        added.extend(kind.to_le_bytes());
        added.extend(value);
        added.len()
    };
    let mut length = 0;
    for (key, kind, value) in more {
        length = add(key, *kind, value);
    }
    // The tensors keep their alignment.
    let filler = (length + 8 + 1 + 4 + 8).next_multiple_of(32) - (length + 8 + 1 + 4 + 8);
    let text = [&(filler as u64).to_le_bytes()[..], &vec![b'x'; filler]].concat();
    add("x", 8, &text);
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + more.len() as u64 + 1;
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes.splice(24..24, added);
    std::fs::write(path, bytes).unwrap();
}

/// A factor without a kind of scaling is a linear one, as in llama.cpp, and so is that of old files.
#[test]
fn factors_without_a_kind_are_linear() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    let (four, zero) = (4.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes());
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let (linear, none) = (text("linear"), text("none"));
    let (kind, factor) = ("llama.rope.scaling.type", "llama.rope.scaling.factor");
    let old = "llama.rope.scale_linear";
    type Entries<'a> = &'a [(&'a str, u32, &'a [u8])];
    let cases: [(Entries<'_>, f64); 7] = [
        (&[], 1.0),
        (&[(factor, 6, &four)], 4.0),
        (&[(old, 6, &four)], 4.0),
        (&[(kind, 8, &linear), (factor, 6, &four)], 4.0),
        (&[(kind, 8, &linear), (old, 6, &four)], 4.0),
        (&[(kind, 8, &none), (factor, 6, &four)], 1.0),
        (&[(factor, 6, &zero)], 1.0),
    ];
    for (more, factor) in cases {
        with_metadata(&path, more);
        let llama = Llama::open(&path, Dtype::Float32, Backend::PLAIN).unwrap();
        let expected = if factor > 1.0 { Rope::Linear { factor } } else { Rope::Default };
        assert_eq!(llama.config().rope, expected, "{more:?}");
    }
    let (unknown, half) = (text("longrope"), 0.5_f32.to_le_bytes());
    for (more, part) in [
        (&[(kind, 8, &unknown[..])], "longrope"),
        (&[(factor, 6, &half[..])], "factor is 0.5"),
        (&[("llama.rope.scaling.attn_factor", 6, &half[..])], "attn_factor is 0.5, expected 1"),
    ] {
        with_metadata(&path, more);
        let error = Llama::open(&path, Dtype::Float32, Backend::PLAIN).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn parts_are_read_and_a_missing_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let part = |i: usize| directory.path().join(format!("m-{i:05}-of-00002.gguf"));
    let two = [2, 0];
    with_metadata(&part(1), &[("split.count", 2, &two)]);
    let open = || Llama::open(part(1), Dtype::Float32, Backend::PLAIN);
    let error = open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf is missing"), "{error}");
    // The second part has nothing new.
    std::fs::copy(part(1), part(2)).unwrap();
    let error = open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("two parts have a tensor"), "{error}");
    // No tensors: a header alone.
    let mut second = std::fs::read(part(2)).unwrap();
    second[8..16].fill(0);
    std::fs::write(part(2), second).unwrap();
    check(&open().unwrap(), "mixed");
    assert!(gguf_tokenizer(&part(2)).is_ok());
    std::fs::rename(part(1), directory.path().join("other.gguf")).unwrap();
    let other = Llama::open(directory.path().join("other.gguf"), Dtype::Float32, Backend::PLAIN);
    let error = other.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("one of 2 parts") && error.contains("-00001-of-00002"), "{error}");
}

#[test]
fn the_tokenizer_is_in_the_metadata() {
    let path = fixture("mixed.gguf");
    let files = gguf_tokenizer(&path).unwrap();
    let tokenizer = Tokenizer::from_files(&path, &files).unwrap();
    let text = std::fs::read_to_string(fixture("mixed.ids.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let text = expected["text"].as_str().unwrap();
    let ids = tokenizer.encode(text, true).unwrap();
    assert_eq!(serde_json::json!(ids), expected["ids"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[2][..]));
    let special = tokenizer.encode("<|im_start|>a", true).unwrap();
    assert_eq!(special, [1, tokenizer.token_id("a").unwrap()]);
    assert_eq!(tokenizer.decode(&special, true).unwrap(), "a");
    let config: serde_json::Value =
        serde_json::from_slice(files.get("tokenizer_config.json").unwrap()).unwrap();
    assert_eq!(config["chat_template"], "{{ messages }}");
    let error = tokenizer_of(fixture("factors.gguf")).unwrap_err().to_string();
    assert!(error.contains("null, expected byte-level BPE (gpt2) or SentencePiece"), "{error}");
}

#[test]
fn summaries_tell_what_is_in_a_file() {
    let summary = TeacherSummary::of(fixture("mixed.gguf")).unwrap();
    let kinds: Vec<&str> = summary.dtypes.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q8_0"]);
    assert_eq!(summary.dtypes.values().sum::<u64>(), summary.parameters);
    assert_eq!(summary.cache_bytes_per_token, 2 * 3 * 2 * 16 * 4);
    let text = summary.to_string();
    assert!(text.contains("6 query heads and 2 key/value heads of 16"), "{text}");
    let summary = TeacherSummary::of(fixture("biases")).unwrap();
    assert!(summary.to_string().contains("llama3 scaling"));
}

#[test]
fn teachers_are_told_from_llambas() {
    assert!(is_teacher(&fixture("mixed.gguf")) && is_teacher(&fixture("plain")));
    assert!(!is_teacher(&fixture("make.py")) && !is_teacher(&fixture("none")));
}
