//! Damaged, hostile and foreign files: one clear error each, never a panic.

use std::path::Path;

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba_teacher::Error;
use mlx_llamba_teacher::{Llama, LlamaConfig, gguf_tokenizer};
use serde_json::{Value, json};

use crate::support::fixture;

fn refused(path: &Path) -> Error {
    Llama::open(path, Dtype::Float32, Backend::PLAIN).map(|_| ()).unwrap_err()
}

/// The message about `config.json` with a change.
fn config(change: impl FnOnce(&mut Value)) -> String {
    let text = std::fs::read_to_string(fixture("plain/config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    match LlamaConfig::from_json(Path::new("config.json"), &value.to_string()) {
        Ok(config) => format!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (key, value, found) in [
        ("model_type", json!("mistral"), "LlamaForCausalLM"),
        ("model_type", json!("mixtral"), "mixtures of experts"),
        ("model_type", json!("gpt2"), "learned positions"),
        ("model_type", json!("granitemoe"), "mixtures of experts"),
        ("model_type", json!("olmo2"), "after attention"),
        ("model_type", Value::Null, "nameless"),
        ("architectures", json!(["LlamaForSequenceClassification"]), "SequenceClass"),
    ] {
        let error = config(|config| config[key] = value);
        assert!(error.contains("architecture") && error.contains(found), "{error}");
    }
}

#[test]
fn numbers_of_python_are_read_where_they_do_not_matter() {
    let text = std::fs::read_to_string(fixture("plain/config.json")).unwrap();
    let more = text.replacen('{', "{\"time_step_limit\": [0.0, Infinity], \"x\": NaN,", 1);
    let parse = |text: &str| LlamaConfig::from_json(Path::new("config.json"), text).unwrap();
    assert_eq!(parse(&more), parse(&text));
}

/// Some tools write -1 for no token, and whole numbers as floats.
#[test]
fn ids_and_sizes_in_other_forms() {
    let text = std::fs::read_to_string(fixture("plain/config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["bos_token_id"] = json!(-1);
    value["eos_token_id"] = json!([2.0, -1]);
    value["hidden_size"] = json!(value["hidden_size"].as_f64().unwrap());
    value["hidden_act"] = json!("swish");
    let config = LlamaConfig::from_json(Path::new("config.json"), &value.to_string()).unwrap();
    assert_eq!((config.bos, config.eos), (None, vec![2]));
}

#[test]
fn bad_fields_are_named() {
    for (key, value, message) in [
        ("vocab_size", Value::Null, "vocab_size is missing"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("num_hidden_layers", json!(-1), "num_hidden_layers is -1"),
        ("num_key_value_heads", json!(4), "num_key_value_heads is 4, expected a divisor"),
        ("head_dim", json!(7), "head_dim is 7, expected an even number"),
        ("rms_norm_eps", json!("x"), "rms_norm_eps"),
        ("rope_theta", json!(0.5), "rope_theta is 0.5"),
        ("hidden_act", json!("gelu"), "hidden_act is \"gelu\", expected \"silu\""),
        ("rope_scaling", json!({"rope_type": "spiral", "factor": 4.0}), "rope_type is spiral"),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "short_factor": [1, 2, 3, 4], "long_factor": [1, 2]}),
            "long_factor is 2 values, expected a list of 4 numbers above 0",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "long_factor": [1, 2, 3, -4]}),
            "short_factor is missing, expected a list of 4",
        ),
        ("rope_scaling", json!({"type": "dynamic", "factor": 0.5}), "factor is 0.5"),
        ("rope_scaling", json!({"type": "yarn"}), "factor is missing"),
        (
            "rope_scaling",
            json!({"type": "yarn", "factor": 2.0, "beta_fast": 0.5}),
            "beta_fast is 0.5, expected at least beta_slow, 1",
        ),
        (
            "rope_scaling",
            json!({"type": "yarn", "factor": 2.0, "attention_factor": -1}),
            "attention_factor is -1",
        ),
        ("rope_scaling", json!({"type": "linear"}), "factor is missing"),
        ("rope_scaling", json!("linear"), "rope_scaling is \"linear\", expected an object"),
        ("rope_scaling", json!({"factor": 4.0}), "rope_type is missing"),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor is 0.5"),
        ("max_position_embeddings", json!(0), "max_position_embeddings is 0"),
        ("hidden_size", json!(1 << 20), "elements"),
    ] {
        let error = config(|config| {
            config[key] = value;
            if message == "elements" {
                config["vocab_size"] = json!(1 << 24);
            }
        });
        assert!(error.contains(message), "{key}: {error}");
        assert!(error.contains("does not describe a Llama: "), "{key}: {error}");
    }
    let error = config(|config| {
        config["head_dim"] = Value::Null;
        config["num_attention_heads"] = json!(5);
        config["num_key_value_heads"] = json!(5);
    });
    assert!(error.contains("num_attention_heads is 5, expected a divisor of hidden_size = 12"));
    assert!(config(|config| *config = json!([])).contains("does not describe"));
}

/// Fields that only some families have.
#[test]
fn bad_fields_of_families_are_named() {
    for (family, key, value, message) in [
        ("granite", "embedding_multiplier", json!(0), "embedding_multiplier is 0"),
        ("granite", "logits_scaling", json!("x"), "logits_scaling"),
        ("smollm3", "no_rope_layers", json!([1, 0]), "expected a list of 5 times 0 or 1"),
        ("smollm3", "no_rope_layer_interval", json!(0), "no_rope_layer_interval is 0"),
        ("smollm3", "use_sliding_window", json!(true), "use_sliding_window is true"),
        ("phi4", "partial_rotary_factor", json!(0.4), "partial_rotary_factor is 0.4"),
        (
            "phi4",
            "partial_rotary_factor",
            json!(0.5),
            "short_factor is 3 values, expected a list of 2",
        ),
        ("phi4", "original_max_position_embeddings", json!(-1), "original_max_position_embeddings"),
        ("qwen2", "partial_rotary_factor", json!(0.5), "1: this family turns whole heads"),
    ] {
        let path = fixture(family).join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        let error = LlamaConfig::from_json(&path, &config.to_string()).unwrap_err().to_string();
        assert!(error.contains(message), "{family}, {key}: {error}");
    }
    // Layers are named by a list, too.
    let path = fixture("smollm3").join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["no_rope_layers"] = json!([0, 1, 1, 1, 1]);
    let config = LlamaConfig::from_json(&path, &config.to_string()).unwrap();
    assert_eq!((config.no_rope, config.tie_word_embeddings), (vec![0], true));
}

#[test]
fn newer_spelling_of_the_rotary_fields_is_read() {
    let accepted = config(|config| {
        config["rope_scaling"] = Value::Null;
        config["rope_theta"] = Value::Null;
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1234.0});
    });
    assert!(accepted.contains("rope_theta: 1234.0"), "{accepted}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path();
    let write = |change: &dyn Fn(&mut Value)| {
        let text = std::fs::read_to_string(fixture("plain/config.json")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        change(&mut value);
        std::fs::write(path.join("config.json"), value.to_string()).unwrap();
    };
    write(&|config| config["model_type"] = json!("gemma2"));
    assert!(refused(path).to_string().contains("its norms"), "{}", refused(path));
    write(&|_| ());
    assert!(refused(path).to_string().contains("no other .safetensors file"));
    std::fs::copy(fixture("plain/model.safetensors"), path.join("model.safetensors")).unwrap();
    assert!(Llama::open(path, Dtype::Float32, Backend::PLAIN).is_ok());
    write(&|config| config["vocab_size"] = json!(24));
    let error = refused(path).to_string();
    assert!(error.contains("model.embed_tokens.weight has shape [23, 12], expected [24, 12]"));
    write(&|config| config["mlp_bias"] = json!(true));
    assert!(refused(path).to_string().contains("mlp.gate_proj.bias is missing"));
    write(&|config| config["tie_word_embeddings"] = json!(true));
    assert!(refused(path).to_string().contains("lm_head.weight is not part of this model"));
    std::fs::remove_file(path.join("config.json")).unwrap();
    assert!(refused(path).to_string().contains("no config.json"));
    let error = Llama::open(fixture("plain"), Dtype::Float16, Backend::CPU).map(|_| ());
    assert!(error.unwrap_err().to_string().contains("float32 activations only"));
    let error = Llama::open(fixture("plain"), Dtype::Int32, Backend::PLAIN).map(|_| ());
    assert!(error.unwrap_err().to_string().contains("float32, float16 or bfloat16"));
}

/// The bytes of a GGUF file with a change, opened both ways.
struct Damage {
    temporary: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Damage {
    fn new(name: &str) -> Self {
        let bytes = std::fs::read(fixture(name)).unwrap();
        Self { temporary: tempfile::tempdir().unwrap(), bytes }
    }

    /// The message about other bytes; `None` if they are a model all the same.
    fn open(&self, bytes: &[u8]) -> Option<String> {
        let path = self.temporary.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let _ = gguf_tokenizer(&path).map(|files| {
            mlx_llamba::Tokenizer::from_files(&path, &files).map(|tokenizer| tokenizer.bos_id())
        });
        Llama::open(&path, Dtype::Float32, Backend::PLAIN).err().map(|error| error.to_string())
    }

    /// The offset of a string, with the eight bytes of its length before it.
    fn find(&self, text: &str) -> usize {
        let all = self.bytes.windows(text.len());
        all.enumerate().find(|(_, w)| *w == text.as_bytes()).map(|(i, _)| i).unwrap()
    }

    /// The message after `value` was written at `at`.
    #[track_caller]
    fn with(&self, at: usize, value: &[u8]) -> String {
        let mut bytes = self.bytes.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        self.open(&bytes).expect("it was accepted")
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let damage = Damage::new("factors.gguf");
    let header = damage.find("blk.0.ffn_norm.weight") + 2000;
    for length in (0..header).step_by(2).chain([damage.bytes.len() / 2, damage.bytes.len() - 1]) {
        let error = damage.open(&damage.bytes[..length]).expect("it was accepted");
        assert!(error.contains("not a sound GGUF file"), "{length}: {error}");
    }
    assert_eq!(damage.open(&damage.bytes), None);
}

#[test]
fn damage_is_told() {
    let damage = Damage::new("mixed.gguf");
    let huge = u64::MAX.to_le_bytes();
    let large = (1_u64 << 40).to_le_bytes();
    let says = |error: String, what: &str| assert!(error.contains(what), "{what}: {error}");
    says(damage.with(0, b"GGML"), "does not begin with GGUF");
    says(damage.with(4, &[1]), "version 1, expected 2 or 3");
    says(damage.with(4, &[0, 0, 0, 3]), "version 50331648");
    for count in [huge, large] {
        says(damage.with(8, &count), "not a sound GGUF file"); // tensors
        says(damage.with(16, &count), "not a sound GGUF file"); // metadata
        says(damage.with(24, &count), "not a sound GGUF file"); // the first name's length
        let list = damage.find("tokenizer.ggml.tokens") + 21;
        says(damage.with(list + 8, &count), "not a sound GGUF file"); // an array's
        says(damage.with(list + 16, &count), "not a sound GGUF file"); // its first string's
        let tensor = damage.find("blk.1.ffn_up.weight") + 19;
        says(damage.with(tensor + 4, &count), "does not lie in the file"); // an axis
        says(damage.with(tensor + 24, &count), "does not lie in the file"); // the offset
    }
    let list = damage.find("tokenizer.ggml.tokens") + 21;
    says(damage.with(list, &[99]), "metadata of kind 99");
    says(damage.with(list + 4, &[9]), "metadata of kind 9");
    says(damage.with(list + 24, &[0xff]), "not UTF-8");
    let tensor = damage.find("blk.1.ffn_up.weight") + 19;
    says(damage.with(tensor, &[0]), "has 0 axes");
    says(damage.with(tensor, &[5]), "has 5 axes");
    says(damage.with(tensor + 4, &[0]), "does not lie in the file"); // an axis of 0
    says(damage.with(tensor + 20, &[16]), "is stored as IQ2_XXS; F32, F16");
    says(damage.with(tensor + 20, &[200]), "is stored as type 200");
    says(damage.with(tensor + 24, &[1]), "does not lie in the file"); // not aligned
    says(damage.with(tensor - 19, b"blk.1.ffn_xx.weight"), "blk.1.ffn_xx.weight is not part");
    says(damage.with(tensor - 19, b"blk.0"), "two tensors are called blk.0.ffn_up.weight");
}

#[test]
fn metadata_that_is_no_llama_is_told() {
    let damage = Damage::new("mixed.gguf");
    let says = |key: &str, value: &[u8], what: &str| {
        let error = damage.with(damage.find(key) + key.len() + 4, value);
        assert!(error.contains(what), "{what}: {error}");
    };
    let architecture = damage.find("general.architecture") + 20 + 4 + 8;
    assert!(damage.with(architecture, b"gemma").contains("architecture gemma"));
    assert!(damage.with(architecture, b"qwen2").contains("qwen2.block_count is missing"));
    says("llama.block_count", &[0], "llama.block_count is 0");
    says("llama.block_count", &[4], "model.layers.3.self_attn.q_proj.weight is missing");
    says("llama.attention.head_count", &[5], "expected a divisor of the 5 query heads");
    says("llama.attention.head_count_kv", &[4], "num_key_value_heads is 4");
    says("llama.rope.dimension_count", &[8], "llama.rope.dimension_count is 8, expected the width");
    says("llama.embedding_length", &[33], "has shape [277, 32], expected [277, 33]");
    let name = damage.find("llama.context_length");
    assert!(damage.with(name, b"xxxxx").contains("llama.context_length is missing"));
    let pre = damage.find("tokenizer.ggml.pre") + 18 + 4 + 8;
    let mut bytes = damage.bytes.clone();
    bytes[pre..pre + 6].copy_from_slice(b"qwen-2");
    let path = damage.temporary.path().join("other.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = gguf_tokenizer(&path).unwrap_err().to_string();
    assert!(error.contains("\"qwen-2\", expected a known way to cut words"), "{error}");
}

#[test]
fn random_damage_never_panics() {
    let damage = Damage::new("mixed.gguf");
    let header = damage.find("blk.2.ffn_norm.weight") + 100;
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..400 {
        let mut bytes = damage.bytes.clone();
        for _ in 0..=random(3) {
            bytes[random(header)] = [0, 1, 0x7f, 0x80, 0xff, 8, 9, 32][random(8)];
        }
        let _ = damage.open(&bytes);
    }
}
