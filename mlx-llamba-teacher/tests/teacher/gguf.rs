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
        llama.weights().iter().filter(|(_, weight)| matches!(weight, Weight::Quantized(_)));
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
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.rope), (1e-5, 500.0, Rope::Default));
    assert_eq!((config.bos, config.eos.as_slice()), (Some(1), &[2][..]));
    assert!(config.tie_word_embeddings && !config.qkv_bias && !config.mlp_bias);
    let factors = open("factors", Backend::PLAIN);
    let config = factors.config();
    assert!(!config.tie_word_embeddings && config.qkv_bias && config.out_bias && config.mlp_bias);
    let Rope::Llama3 { factor, .. } = config.rope else { panic!("{:?}", config.rope) };
    assert!((factor - 32.0).abs() < 1e-3);
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
